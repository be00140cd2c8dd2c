//! The process title: what `ps` shows instead of the command line.
//!
//! Linux shows the bytes between two addresses of the process (`/proc/PID/stat`, fields 48 to 51); a process changes
//! its title by writing there. The environment lies behind the arguments and is moved away first, so that a title may
//! be longer than the command line was.

use std::ffi::OsString;
use std::sync::OnceLock;

/// The bytes that a title may use.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    length: usize,
}

static SPAN: OnceLock<Span> = OnceLock::new();

/// Makes room for titles. Call first thing in `main`, in a process with one thread, after the arguments have been
/// collected: they cannot be read any more once a title has been set.
pub fn prepare() {
    // The values live in argv's neighbourhood until they are set again, which copies each to the heap.
    // A name with `=` in it (the shells of other systems leave such) cannot be set again, and stays where it is.
    let settable = |(name, _): &(OsString, OsString)| !name.as_encoded_bytes().contains(&b'=');
    for (name, value) in std::env::vars_os().filter(settable).collect::<Vec<_>>() {
        // SAFETY: the process has one thread, so nobody reads the environment meanwhile.
        unsafe { std::env::set_var(name, value) };
    }
    if let Some(span) = argument_span() {
        let _first = SPAN.get_or_init(|| span);
    }
}

/// Sets the title of this process; cut where the room ends. Does nothing before [`prepare`].
pub fn set(title: &str) {
    let Some(span) = SPAN.get() else { return };
    let shown = &title.as_bytes()[..title.len().min(span.length - 1)];
    // SAFETY: the span is the argument and environment area of this process, mapped writable by the kernel at exec for
    // its whole life. `prepare` has moved the environment away, and std keeps pointers to the arguments only for
    // `std::env::args`, which the caller has promised not to use again. No reference of ours points there.
    unsafe {
        let area = span.start as *mut u8;
        std::ptr::write_bytes(area, 0, span.length);
        std::ptr::copy_nonoverlapping(shown.as_ptr(), area, shown.len());
    }
}

/// From the first argument's start to the environment's end, when both lie in one piece.
fn argument_span() -> Option<Span> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<usize> = after_name.split_ascii_whitespace().skip(45).take(4).flat_map(str::parse).collect();
    let [arg_start, arg_end, env_start, env_end] = fields[..] else { return None };
    let end = if env_start == arg_end && env_end > arg_end { env_end } else { arg_end };
    (arg_start > 0 && end > arg_start + 1).then_some(Span { start: arg_start, length: end - arg_start })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_argument_area() {
        let span = argument_span().unwrap();
        assert!(span.start > 0 && span.length > 1);
    }
}
