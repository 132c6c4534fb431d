//! What the BPF programs count, by cause: a per-CPU array of [`Count`], indexed by these.

/// Events, and the bytes of the watched streams that they concern (0 where bytes are not the
/// measure): `[events, bytes]`.
pub type Count = [u64; 2];

/// What is done for one of an enum's, with a constant for its position.
pub trait ForOne {
    /// Does it.
    fn at<const POSITION: usize>(self);
}

macro_rules! labels {
    ($(#[$of:meta])* $enum:ident { $($(#[$doc:meta])* $name:ident = $label:literal,)* }) => {
        $(#[$of])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum $enum { $($(#[$doc])* $name,)* }

        impl $enum {
            /// All of them, in the order of their positions.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// How many there are.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// The name under which it is published.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// Has something done that differs by which of them it is.
            #[inline(always)]
            pub fn with_position(self, one: impl ForOne) {
                match self { $(Self::$name => one.at::<{ Self::$name as usize }>(),)* }
            }
        }
    };
}

labels! {
    /// Counters, as positions in the array.
    Counter {
        /// The ring buffer had no room for a record.
        RingFull = "ring_full",
        /// A page of the process's buffer could not be read without faulting it in.
        Unreadable = "unreadable",
        /// All scratch slots of the CPU were claimed by preempted invocations.
        ScratchBusy = "scratch_busy",
        /// More threads than are kept track of were in the functions of the kprobe backend.
        EnteredFull = "entered_full",
        /// A transfer had more frames and messages than one invocation may walk over.
        LoopBound = "loop_bound",
        /// A frame that is kept whole was longer than the bound.
        FrameTooLong = "frame_too_long",
        /// The socket's own counter moved further than the transfers that were seen.
        Unseen = "unseen",
        /// The process had the kernel discard what it received (MSG_TRUNC).
        Discarded = "discarded",
        /// The connection map was full, or the process had its share of it: the connection is not watched for now.
        ConnectionsFull = "connections_full",
        /// The map of processes was full: the exit of one is not told, and found later.
        ProcessesFull = "processes_full",
        /// The map of messages cut across DATA frames was full, or the process had its share of it: the
        /// stream's messages are not counted.
        MessagesFull = "messages_full",
        /// Bytes of a direction in which no frame boundary is known, after another gap.
        OutOfStep = "out_of_step",
        /// There was no frame where one was to begin: what was taken for a boundary was none.
        NotFrame = "not_frame",
        /// Bytes of connections that were open before the daemon, until a frame boundary was found.
        BeforeJoin = "before_join",
    }
}

labels! {
    /// What a selected socket turned out to carry, by its first bytes: the array's second part.
    Protocol {
        /// It opened with the HTTP/2 client preface.
        Http2 = "http2",
        /// It opened with an HTTP/1 request line or status line.
        Http1 = "http1",
        /// It opened with a TLS handshake record.
        Tls = "tls",
        /// Anything else, connections already open when the daemon started among them.
        Other = "other",
    }
}

impl Protocol {
    /// Its position in the array of counts.
    pub const fn position(self) -> u32 {
        Counter::COUNT + self as u32
    }
}

/// Length of the array of counts.
pub const COUNTS: u32 = Counter::COUNT + Protocol::COUNT;
