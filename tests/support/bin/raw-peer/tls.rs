//! TLS by OpenSSL, over a socket: the process must have loaded `libssl.so.3`. All system calls are the library's, or, if it
//! has buffers in memory, are made between its calls.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::{cmp, mem, ptr};

use anyhow::{Context as _, Result, bail, ensure};
use support::raw::command::{Protocol, Secure, Through};

/// The library that is loaded.
const LIBRARY: &CStr = c"libssl.so.3";

/// HTTP/2 in ALPN, with its length (RFC 7301 §3.1).
static H2: [u8; 3] = *b"\x02h2";

// Constants of OpenSSL's headers (ssl.h, bio.h).
const SSL_FILETYPE_PEM: c_int = 1;
const SSL_CTRL_SET_MIN_PROTO_VERSION: c_int = 123;
const SSL_CTRL_SET_MAX_PROTO_VERSION: c_int = 124;
const TLS1_2_VERSION: c_long = 0x0303;
const TLS1_3_VERSION: c_long = 0x0304;
const SSL_OP_ALLOW_CLIENT_RENEGOTIATION: u64 = 1 << 8;
const SSL_OP_NO_ENCRYPT_THEN_MAC: u64 = 1 << 19;
const SSL_OP_NO_RENEGOTIATION: u64 = 1 << 30;
const SSL_ERROR_WANT_READ: c_int = 2;
const SSL_READ_EARLY_DATA_FINISH: c_int = 2;
const BIO_C_SET_SSL: c_int = 109;
const BIO_NOCLOSE: c_long = 0;

/// An object of the library.
type Object = *mut c_void;

/// Chooses a protocol of ALPN (`SSL_CTX_set_alpn_select_cb`).
type Choose =
    unsafe extern "C" fn(Object, *mut *const u8, *mut u8, *const u8, c_uint, Object) -> c_int;

macro_rules! library {
    ($(fn $name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of the library.
        #[derive(Clone, Copy, Debug)]
        #[expect(non_snake_case, reason = "the names are OpenSSL's")]
        struct Library {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Library {
            fn load() -> Result<Self> {
                // SAFETY: a name that ends with a zero. The library was loaded when the process began.
                let library = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW) };
                ensure!(!library.is_null(), "{} is not there", LIBRARY.to_string_lossy());
                Ok(Self {
                    $($name: {
                        let name = CString::new(stringify!($name))?;
                        // SAFETY: as above.
                        let address = unsafe { libc::dlsym(library, name.as_ptr()) };
                        ensure!(!address.is_null(), "no function {}", stringify!($name));
                        // SAFETY: the type is that of OpenSSL's headers.
                        unsafe { mem::transmute::<Object, unsafe extern "C" fn($($argument),*) $(-> $result)?>(address) }
                    },)*
                })
            }
        }
    };
}

library! {
    fn TLS_method() -> Object;
    fn SSL_CTX_new(Object) -> Object;
    fn SSL_CTX_free(Object);
    fn SSL_CTX_ctrl(Object, c_int, c_long, Object) -> c_long;
    fn SSL_CTX_set_options(Object, u64) -> u64;
    fn SSL_CTX_set_cipher_list(Object, *const c_char) -> c_int;
    fn SSL_CTX_set_ciphersuites(Object, *const c_char) -> c_int;
    fn SSL_CTX_use_certificate_file(Object, *const c_char, c_int) -> c_int;
    fn SSL_CTX_use_PrivateKey_file(Object, *const c_char, c_int) -> c_int;
    fn SSL_CTX_set_alpn_protos(Object, *const u8, c_uint) -> c_int;
    fn SSL_CTX_set_alpn_select_cb(Object, Choose, Object);
    fn SSL_CTX_set_num_tickets(Object, usize) -> c_int;
    fn SSL_CTX_set_max_early_data(Object, u32) -> c_int;
    fn SSL_CTX_set_block_padding(Object, usize) -> c_int;
    fn SSL_CTX_set_session_id_context(Object, *const u8, c_uint) -> c_int;
    fn SSL_new(Object) -> Object;
    fn SSL_free(Object);
    fn SSL_set_fd(Object, c_int) -> c_int;
    fn SSL_set_bio(Object, Object, Object);
    fn SSL_set_connect_state(Object);
    fn SSL_set_accept_state(Object);
    fn SSL_do_handshake(Object) -> c_int;
    fn SSL_get_error(Object, c_int) -> c_int;
    fn SSL_read(Object, *mut u8, c_int) -> c_int;
    fn SSL_read_ex(Object, *mut u8, usize, *mut usize) -> c_int;
    fn SSL_write(Object, *const u8, c_int) -> c_int;
    fn SSL_write_ex(Object, *const u8, usize, *mut usize) -> c_int;
    fn SSL_read_early_data(Object, *mut u8, usize, *mut usize) -> c_int;
    fn SSL_write_early_data(Object, *const u8, usize, *mut usize) -> c_int;
    fn SSL_key_update(Object, c_int) -> c_int;
    fn SSL_new_session_ticket(Object) -> c_int;
    fn SSL_renegotiate(Object) -> c_int;
    fn SSL_get1_session(Object) -> Object;
    fn SSL_set_session(Object, Object) -> c_int;
    fn SSL_SESSION_free(Object);
    fn SSL_shutdown(Object) -> c_int;
    fn BIO_new(Object) -> Object;
    fn BIO_free(Object) -> c_int;
    fn BIO_s_mem() -> Object;
    fn BIO_f_ssl() -> Object;
    fn BIO_ctrl(Object, c_int, c_long, Object) -> c_long;
    fn BIO_read(Object, *mut u8, c_int) -> c_int;
    fn BIO_write(Object, *const u8, c_int) -> c_int;
    fn ERR_get_error() -> c_ulong;
    fn ERR_error_string_n(c_ulong, *mut c_char, usize);
}

impl Library {
    /// The error if a function of the library has failed.
    fn check(&self, what: &str, is_done: bool) -> Result<()> {
        if is_done {
            return Ok(());
        }
        let mut text: [c_char; 256] = [0; 256];
        // SAFETY: the library ends the text with a zero.
        let text = unsafe {
            (self.ERR_error_string_n)((self.ERR_get_error)(), text.as_mut_ptr(), text.len());
            CStr::from_ptr(text.as_ptr())
        };
        bail!("{what}: {}", text.to_string_lossy())
    }
}

/// What the connections of a process have in common.
#[derive(Debug)]
pub(crate) struct Tls {
    library: Library,
    /// `SSL_CTX`, which has the keys of tickets.
    context: Object,
    /// `SSL_SESSION` of the last connection.
    last: Object,
    in_memory: bool,
}

// SAFETY: one thread uses it, and then another one.
unsafe impl Send for Tls {}

/// The server's answer to ALPN: HTTP/2, which is all that clients offer.
unsafe extern "C" fn choose(
    _: Object,
    chosen: *mut *const u8,
    length: *mut u8,
    _: *const u8,
    _: c_uint,
    _: Object,
) -> c_int {
    let [_, h2 @ ..] = &H2;
    // SAFETY: the library passes where to write both.
    unsafe {
        *chosen = h2.as_ptr();
        *length = h2.len() as u8;
    }
    0
}

impl Tls {
    /// Loads what an end needs.
    pub(crate) fn new(how: &Secure) -> Result<Self> {
        let library = Library::load()?;
        // SAFETY: without arguments, or those that it has made.
        let context = unsafe { (library.SSL_CTX_new)((library.TLS_method)()) };
        ensure!(!context.is_null(), "no context");
        let tls = Self { library, context, last: ptr::null_mut(), in_memory: how.in_memory };
        tls.configure(how)?;
        Ok(tls)
    }

    fn configure(&self, how: &Secure) -> Result<()> {
        let Self { library: l, context, .. } = *self;
        let suite = CString::new(how.suite.as_str())?;
        let old = CString::new(format!("{}:@SECLEVEL=0", how.suite))?;
        let is_1_3 = how.suite.starts_with("TLS_");
        let version = if is_1_3 { TLS1_3_VERSION } else { TLS1_2_VERSION };
        let refuses = !how.renegotiates && !how.certificate.is_empty();
        let mut options =
            if refuses { SSL_OP_NO_RENEGOTIATION } else { SSL_OP_ALLOW_CLIENT_RENEGOTIATION };
        if how.encrypts_mac {
            options |= SSL_OP_NO_ENCRYPT_THEN_MAC;
        }
        // SAFETY: an object of the library, and texts that end with zeros.
        unsafe {
            for bound in [SSL_CTRL_SET_MIN_PROTO_VERSION, SSL_CTRL_SET_MAX_PROTO_VERSION] {
                (l.SSL_CTX_ctrl)(context, bound, version, ptr::null_mut());
            }
            (l.SSL_CTX_set_options)(context, options);
            let set = if is_1_3 {
                (l.SSL_CTX_set_ciphersuites)(context, suite.as_ptr())
            } else {
                (l.SSL_CTX_set_cipher_list)(context, old.as_ptr())
            };
            l.check(&how.suite, set == 1)?;
            if how.padding != 0 {
                l.check("padding", (l.SSL_CTX_set_block_padding)(context, how.padding) == 1)?;
            }
            l.check("tickets", (l.SSL_CTX_set_num_tickets)(context, how.tickets) == 1)?;
            let [certificate, key] = &*how.certificate else {
                let length = H2.len() as c_uint;
                (l.SSL_CTX_set_alpn_protos)(context, H2.as_ptr(), length);
                return Ok(());
            };
            (l.SSL_CTX_set_alpn_select_cb)(context, choose, ptr::null_mut());
            (l.SSL_CTX_set_max_early_data)(context, 1 << 14);
            (l.SSL_CTX_set_session_id_context)(context, H2.as_ptr(), H2.len() as c_uint);
            let certificate = CString::new(certificate.as_os_str().as_bytes())?;
            let key = CString::new(key.as_os_str().as_bytes())?;
            let is_used =
                (l.SSL_CTX_use_certificate_file)(context, certificate.as_ptr(), SSL_FILETYPE_PEM);
            l.check("the certificate", is_used == 1)?;
            let is_used = (l.SSL_CTX_use_PrivateKey_file)(context, key.as_ptr(), SSL_FILETYPE_PEM);
            l.check("the key", is_used == 1)
        }
    }

    /// Shakes hands over a socket. `early` is what the client sends before that.
    pub(crate) fn begin(
        &mut self,
        how: &Secure,
        socket: &OwnedFd,
        early: &[u8],
    ) -> Result<Session> {
        let (l, is_server) = (self.library, !how.certificate.is_empty());
        // SAFETY: objects of the library, each of which is freed once.
        let session = unsafe {
            let ssl = (l.SSL_new)(self.context);
            ensure!(!ssl.is_null(), "no object for a connection");
            let [mut from, mut to] = [ptr::null_mut(); 2];
            if self.in_memory {
                [from, to] = [(l.BIO_new)((l.BIO_s_mem)()), (l.BIO_new)((l.BIO_s_mem)())];
                (l.SSL_set_bio)(ssl, from, to);
            } else {
                (l.SSL_set_fd)(ssl, socket.as_raw_fd());
            }
            let set = if is_server { l.SSL_set_accept_state } else { l.SSL_set_connect_state };
            set(ssl);
            let front = (l.BIO_new)((l.BIO_f_ssl)());
            (l.BIO_ctrl)(front, BIO_C_SET_SSL, BIO_NOCLOSE, ssl);
            if how.resumed.is_some() {
                ensure!(!self.last.is_null(), "there is no session");
                l.check("the session", (l.SSL_set_session)(ssl, self.last) == 1)?;
            }
            Session { library: l, ssl, front, from, to }
        };
        if !early.is_empty() {
            session.write_by(socket, early, |l, ssl, bytes| {
                let mut n = 0;
                // SAFETY: as above.
                let done = unsafe {
                    (l.SSL_write_early_data)(ssl, bytes.as_ptr(), bytes.len(), &raw mut n)
                };
                if done == 1 { n as c_int } else { -1 }
            })?;
        }
        if is_server && let Some(length @ 1..) = how.resumed {
            session.read_early(socket, length)?;
        }
        session.shake_hands(socket)?;
        Ok(session)
    }

    /// Remembers the session of a connection, for one that resumes it.
    pub(crate) fn remember(&mut self, of: &Session) {
        // SAFETY: an object of the library, which counts who has it.
        unsafe {
            if !self.last.is_null() {
                (self.library.SSL_SESSION_free)(self.last);
            }
            self.last = (self.library.SSL_get1_session)(of.ssl);
        }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        // SAFETY: nothing else frees them.
        unsafe {
            if !self.last.is_null() {
                (self.library.SSL_SESSION_free)(self.last);
            }
            (self.library.SSL_CTX_free)(self.context);
        }
    }
}

/// An end of a TLS connection.
#[derive(Debug)]
pub(crate) struct Session {
    library: Library,
    /// `SSL`
    ssl: Object,
    /// A `BIO` that passes plaintext to it.
    front: Object,
    /// Its buffers in memory, if it has these: from the socket, to the socket.
    from: Object,
    to: Object,
}

// SAFETY: one thread uses it, and then another one.
unsafe impl Send for Session {}

impl Session {
    /// Calls a function of the library until it has done what it does. Returns what it returns.
    fn drive(
        &self,
        socket: &OwnedFd,
        what: &str,
        call: impl Fn(&Library, Object) -> c_int,
    ) -> Result<usize> {
        loop {
            let result = call(&self.library, self.ssl);
            self.flush(socket)?;
            if let Ok(result @ 1..) = usize::try_from(result) {
                return Ok(result);
            }
            // SAFETY: the object is this one's.
            let error = unsafe { (self.library.SSL_get_error)(self.ssl, result) };
            let waits = error == SSL_ERROR_WANT_READ && !self.from.is_null();
            if !waits {
                return self.library.check(&format!("{what}, error {error}"), false).map(|()| 0);
            }
            let mut bytes = vec![0; 64 << 10];
            let n = rustix::io::read(socket, &mut bytes).context("read")?;
            ensure!(n > 0, "{what}: the connection has ended");
            // SAFETY: so many bytes are there.
            unsafe { (self.library.BIO_write)(self.from, bytes.as_ptr(), n as c_int) };
        }
    }

    /// Sends what the library has put into its buffer.
    fn flush(&self, socket: &OwnedFd) -> Result<()> {
        let mut bytes = vec![0; 64 << 10];
        while !self.to.is_null() {
            // SAFETY: there is room for so many bytes.
            let n = unsafe {
                (self.library.BIO_read)(self.to, bytes.as_mut_ptr(), bytes.len() as c_int)
            };
            let Ok(n @ 1..) = usize::try_from(n) else { break };
            let mut left = bytes.get(..n).context("more than there is room for")?;
            while !left.is_empty() {
                let n = rustix::io::write(socket, left).context("write")?;
                left = left.get(n..).context("more written than there is")?;
            }
        }
        Ok(())
    }

    fn shake_hands(&self, socket: &OwnedFd) -> Result<()> {
        // SAFETY: the object is this one's.
        self.drive(socket, "the handshake", |l, ssl| unsafe { (l.SSL_do_handshake)(ssl) })?;
        Ok(())
    }

    fn write_by(
        &self,
        socket: &OwnedFd,
        mut bytes: &[u8],
        write: impl Fn(&Library, Object, &[u8]) -> c_int,
    ) -> Result<()> {
        while !bytes.is_empty() {
            let n = self.drive(socket, "a write", |l, ssl| write(l, ssl, bytes))?;
            bytes = bytes.get(n..).context("more written than there is")?;
        }
        Ok(())
    }

    /// Writes plaintext, at most `size` bytes at a time.
    pub(crate) fn write(
        &self,
        socket: &OwnedFd,
        through: Through,
        size: usize,
        bytes: &[u8],
    ) -> Result<()> {
        let front = self.front;
        // SAFETY: objects of the library, and bytes that are there.
        let write = |l: &Library, ssl, bytes: &[u8]| unsafe {
            let (start, length) = (bytes.as_ptr(), bytes.len());
            match through {
                Through::Plain => (l.SSL_write)(ssl, start, length as c_int),
                Through::Bio => (l.BIO_write)(front, start, length as c_int),
                Through::Extended => {
                    let mut n = 0;
                    let done = (l.SSL_write_ex)(ssl, start, length, &raw mut n);
                    if done == 1 { n as c_int } else { done }
                }
            }
        };
        bytes.chunks(size).try_for_each(|piece| self.write_by(socket, piece, write))
    }

    /// Reads so much plaintext, at most `size` bytes at a time.
    pub(crate) fn read(
        &self,
        socket: &OwnedFd,
        through: Through,
        size: usize,
        length: usize,
    ) -> Result<()> {
        let front = self.front;
        let mut buffer = vec![0_u8; cmp::min(size, length)];
        let (start, room) = (buffer.as_mut_ptr(), buffer.len());
        let mut left = length;
        while left > 0 {
            let most = cmp::min(left, room);
            let n = self.drive(socket, "a read", |l, ssl| {
                // SAFETY: objects of the library, and a buffer that has so much room.
                unsafe {
                    match through {
                        Through::Plain => (l.SSL_read)(ssl, start, most as c_int),
                        Through::Bio => (l.BIO_read)(front, start, most as c_int),
                        Through::Extended => {
                            let mut n = 0;
                            let done = (l.SSL_read_ex)(ssl, start, most, &raw mut n);
                            if done == 1 { n as c_int } else { done }
                        }
                    }
                }
            })?;
            left -= n;
        }
        Ok(())
    }

    /// Reads so many bytes of early data.
    fn read_early(&self, socket: &OwnedFd, length: usize) -> Result<()> {
        let mut buffer = vec![0_u8; length];
        let start = buffer.as_mut_ptr();
        let mut left = length;
        while left > 0 {
            let n = self.drive(socket, "early data", |l, ssl| {
                let mut n = 0;
                // SAFETY: an object of the library, and a buffer that has so much room.
                let done = unsafe { (l.SSL_read_early_data)(ssl, start, left, &raw mut n) };
                if done == SSL_READ_EARLY_DATA_FINISH { c_int::MAX } else { n as c_int }
            })?;
            left = left.checked_sub(n).context("there is no early data, or too little")?;
        }
        Ok(())
    }

    /// Does what TLS allows in the middle of a connection.
    pub(crate) fn act(&self, socket: &OwnedFd, protocol: Protocol) -> Result<()> {
        let l = self.library;
        // SAFETY: the object is this one's.
        let done = unsafe {
            match protocol {
                Protocol::KeyUpdate { answered } => (l.SSL_key_update)(self.ssl, answered.into()),
                Protocol::Ticket => (l.SSL_new_session_ticket)(self.ssl),
                Protocol::Renegotiate | Protocol::RenegotiateInVain => {
                    (l.SSL_renegotiate)(self.ssl)
                }
            }
        };
        l.check("what TLS allows", done == 1)?;
        let done = self.shake_hands(socket);
        if protocol == Protocol::RenegotiateInVain {
            ensure!(done.is_err(), "the other end renegotiates");
            return Ok(());
        }
        done
    }

    /// Sends the alert that ends the connection. The other end may have closed its socket.
    pub(crate) fn end(&self, socket: &OwnedFd) {
        // SAFETY: the object is this one's.
        unsafe { (self.library.SSL_shutdown)(self.ssl) };
        let _ = self.flush(socket);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: nothing else frees them. The buffers are the connection's.
        unsafe {
            (self.library.BIO_free)(self.front);
            (self.library.SSL_free)(self.ssl);
        }
    }
}
