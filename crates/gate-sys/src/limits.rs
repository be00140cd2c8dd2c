//! How many files a process may have open.
//!
//! The lower of two limits is what the kernel keeps to. Most systems set it to 1024 for the sake of programs that call
//! select(2), which cannot count further, and leave the higher one to everybody else (`file-max` and memory bound what
//! is used of it). Gunicorn leaves both alone, nginx raises its workers' only where it is told to
//! (`worker_rlimit_nofile`); under either, a busy server runs out of descriptors with room for many more.
//!
//! Invariant: nothing is ever lowered, and the higher limit, which is the operator's word, stays.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lets this process, and what is forked from it, have as many files open as it may allow itself.
///
/// # Errors
/// `EPERM`: the higher limit is beyond what the kernel gives (`fs.nr_open`) by now. The lower one stays.
pub fn raise_open_files() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Exit, spawn_unchecked_threads, wait};

    #[test]
    fn the_lower_limit_is_raised_to_the_higher_one_and_that_one_stays() {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        for soft in [100, most - 1, most] {
            let child = spawn_unchecked_threads((), |()| {
                setrlimit(Resource::RLIMIT_NOFILE, soft, most).unwrap();
                raise_open_files().unwrap();
                u8::from(getrlimit(Resource::RLIMIT_NOFILE).unwrap() != (most, most))
            });
            assert_eq!(wait(child.unwrap()).unwrap(), Exit::Code(0), "{soft}");
        }
    }
}
