//! A disk that breaks: what a journal meets when the machine stops, or the disk is full, in the middle of a write.

use std::{fs::File, io};

use tiltmeter_scheduler::Disk;

/// Takes so many bytes and then breaks off in the middle of a write.
pub struct Breaking {
    pub file: File,
    pub left: usize,
}

impl Disk for Breaking {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let fits = bytes.len().min(self.left);
        self.left -= fits;
        Disk::append(&mut self.file, &bytes[..fits])?;
        if fits < bytes.len() { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}
