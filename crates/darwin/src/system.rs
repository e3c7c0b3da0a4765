//! What the binary asks of the operating system before it begins.

use std::mem::MaybeUninit;

/// Most open files where the limit is none: what macOS takes.
#[cfg(target_os = "macos")]
const MOST_FILES: libc::rlim_t = 10_240;
#[cfg(not(target_os = "macos"))]
const MOST_FILES: libc::rlim_t = 1 << 20;

/// Allows as many open files as this user may have: a model of 10,000 shards has 10,000.
pub(crate) fn allow_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the system fills the structure, which lives longer than the call.
    let asked = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    let most = limit.rlim_max.min(MOST_FILES);
    if asked == 0 && limit.rlim_cur < most {
        limit.rlim_cur = most;
        // SAFETY: the system reads the structure. Where it refuses, the limit stays.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

/// The machine's name, for the owner of a lock.
pub(crate) fn host() -> Option<String> {
    let mut name = [0_u8; 256];
    // SAFETY: the system writes at most so many bytes; the last stays 0.
    let asked = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) };
    let end = name.iter().position(|byte| *byte == 0)?;
    (asked == 0 && end > 0).then(|| String::from_utf8_lossy(&name[..end]).into_owned())
}

/// Whether the end of the terminal is ignored, as under `nohup`.
pub(crate) fn ignores_hangup() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with no new action the system fills the old one, for which all zeros is a value.
    unsafe {
        libc::sigaction(libc::SIGHUP, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Ignores the end of the terminal.
pub(crate) fn ignore_hangup() {
    // SAFETY: no handler of ours is named.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}
