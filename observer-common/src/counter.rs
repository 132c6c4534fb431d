//! Counters of the BPF programs, by cause: a per-CPU array of [`Count`], indexed by [`Counter`] and [`Protocol`].

/// Events, and the bytes of watched streams that they concern: `[events, bytes]`. 0 bytes where bytes are not the
/// measure.
pub type Count = [u64; 2];

/// An action on one variant of an enum, whose position the compiler knows.
pub trait ForOne {
    /// Does it for the variant at `POSITION`.
    fn at<const POSITION: usize>(self);
}

macro_rules! labels {
    ($(#[$of:meta])* $enum:ident { $($(#[$doc:meta])* $name:ident = $label:literal,)* }) => {
        $(#[$of])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum $enum { $($(#[$doc])* $name,)* }

        impl $enum {
            /// All variants, in the order of their positions.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Number of variants.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// The value of the label that it is published with.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// Does `one` for this variant, as a constant.
            #[inline(always)]
            pub fn with_position(self, one: impl ForOne) {
                match self { $(Self::$name => one.at::<{ Self::$name as usize }>(),)* }
            }
        }
    };
}

labels! {
    /// Causes of gaps and the like: positions in the array of counts.
    Counter {
        /// The ring buffer had no room for a record.
        RingFull = "ring_full",
        /// A page of the process's buffer could not be read without faulting it in.
        Unreadable = "unreadable",
        /// All scratch slots of the CPU were claimed by preempted invocations.
        ScratchBusy = "scratch_busy",
        /// More threads than are tracked were in the functions of the kprobe backend.
        EnteredFull = "entered_full",
        /// A transfer had more frames and messages than one invocation may walk over.
        LoopBound = "loop_bound",
        /// A frame that is kept whole was longer than the bound.
        FrameTooLong = "frame_too_long",
        /// The socket's own counter moved further than the captured transfers.
        Unseen = "unseen",
        /// The process had the kernel discard what it received (MSG_TRUNC).
        Discarded = "discarded",
        /// The connection map was full, or the process had its share of it: the connection is not watched for now.
        ConnectionsFull = "connections_full",
        /// The map of processes was full: the exit of one is not reported, and found later.
        ProcessesFull = "processes_full",
        /// The map of messages cut across DATA frames was full, or the process had its share of it: the
        /// stream's messages are not counted.
        MessagesFull = "messages_full",
        /// Bytes of a direction that is out of sync after another gap.
        OutOfStep = "out_of_step",
        /// A frame did not start where one had to: the boundary that was believed was not one.
        NotFrame = "not_frame",
        /// Bytes of connections that were open before the daemon, until a frame boundary was found.
        BeforeJoin = "before_join",
        /// Plaintext of TLS connections that the probes did not capture, by the lengths of the records at the socket.
        TlsUnseen = "tls_unseen",
        /// Plaintext of TLS connections that may be HTTP/2 and whose library is not probed, or was not when they began.
        TlsNotFollowed = "tls_not_followed",
        /// The cipher suite of a TLS connection does not show how long the plaintext is: the connection is not followed.
        TlsCipher = "tls_cipher",
    }
}

labels! {
    /// The protocol of a selected socket, by its first bytes: the array's second part.
    Protocol {
        /// It started with the HTTP/2 client preface.
        Http2 = "http2",
        /// It started with an HTTP/1 request line or status line.
        Http1 = "http1",
        /// It started with a TLS handshake record.
        Tls = "tls",
        /// It started with a Thrift message.
        Thrift = "thrift",
        /// It started with a frame of yamux, which carries connections in one.
        Yamux = "yamux",
        /// Anything else, including connections that were open before the daemon.
        Other = "other",
    }
}

impl Protocol {
    /// Its position in the array of counts.
    pub const fn position(self) -> u32 {
        Counter::COUNT + self as u32
    }
}

/// Connections of one process, by [`Protocol`]. Those that are watched are not counted here, because the daemon knows
/// them.
pub type CountsOfProcess = [u64; Protocol::COUNT as usize];

/// Length of the array of counts.
pub const COUNTS: u32 = Counter::COUNT + Protocol::COUNT;
