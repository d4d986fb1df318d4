//! What is said when a mapped file shrinks under a session.
#![allow(unsafe_code)]

/// What the process writes to stderr before it ends.
#[cfg(unix)]
const MESSAGE: &str =
    "magicpig: a file of a session was cut short, or its disk failed, while it was being read (SIGBUS)\n";

/// From now on, a page of a mapped file that cannot be read ends the process with one plain line on stderr, and then as
/// the system would have ended it. Without this call it ends without the line.
///
/// The handler belongs to the whole process and replaces the one that was there. It cannot tell whose mapping failed.
#[cfg(unix)]
pub fn install_sigbus_message() {
    extern "C" fn say(signal: libc::c_int) {
        // SAFETY: `write` and `raise` are async-signal-safe, and the message is static. SA_RESETHAND has restored the
        // default action, which the raised signal meets when this handler returns.
        unsafe {
            libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
            libc::raise(signal);
        }
    }
    let handler: extern "C" fn(libc::c_int) = say;
    // SAFETY: the action is zeroed, which is a valid `sigaction`, and then filled in; the handler is a static function that
    // does only what a signal handler may.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_RESETHAND | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

/// There is no such signal here.
#[cfg(not(unix))]
pub fn install_sigbus_message() {}
