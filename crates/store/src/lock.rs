//! A file lock that admits one process per run folder. The operating system releases it when the
//! process ends, however it ends, so no stale lock can remain.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::Path,
};

use crate::{Error, Result};

/// A held lock, released on drop.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Drop for Lock {
    /// Unlocks explicitly. Closing alone is not enough: a child process that another thread is
    /// starting holds a copy of every open file until it calls exec, and the lock would last as
    /// long.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl Lock {
    /// Locks an existing folder.
    ///
    /// # Errors
    /// [`Error::Locked`] with the process that holds the lock.
    pub fn take(dir: &Path) -> Result<Lock> {
        let path = dir.join(".lock");
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
        };
        let mut file = open().map_err(|e| Error::io("open", &path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Locked {
                    dir: dir.to_owned(),
                    pid: pid(&mut file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path, error)),
        }
        // The process id, for the message above. Not part of the lock: a full disk may lose it.
        let _ = file
            .set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Lock { file })
    }

    /// Whether some process holds the folder's lock now.
    pub fn held(dir: &Path) -> bool {
        let Ok(file) = fs::File::open(dir.join(".lock")) else {
            return false;
        };
        let found = file.try_lock_shared();
        let _ = file.unlock();
        matches!(found, Err(TryLockError::WouldBlock))
    }
}

fn pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_file_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::take(dir.path()).unwrap();
        // as a child process being started has
        let copy = lock.file.try_clone().unwrap();
        assert!(Lock::take(dir.path()).is_err() && Lock::held(dir.path()));
        drop(lock);
        assert!(!Lock::held(dir.path()));
        Lock::take(dir.path()).unwrap();
        drop(copy);
    }
}
