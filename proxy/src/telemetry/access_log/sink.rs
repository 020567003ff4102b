//! Where log bytes go. Failures are counted and said once; writing is tried again with every batch.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// A file or a standard stream. The stream is written by a descriptor of our own: a reader that stalls must not hold up whoever else
/// writes to it through the standard library's lock.
#[derive(Debug)]
pub(super) struct Sink {
    path: Arc<str>,
    open: Option<File>,
    /// The last thing that reached the file was a part of a line.
    torn: bool,
    failing: bool,
}

/// Lines of one batch, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) written: u64,
    pub(super) failed: u64,
}

impl Sink {
    pub(super) fn new(path: &Arc<str>) -> Self {
        Self { path: path.clone(), open: None, torn: false, failing: false }
    }

    /// Forgets the file; the next batch opens it anew.
    pub(super) fn reopen(&mut self) {
        self.open = None;
        self.torn = false;
    }

    /// Writes a batch of whole lines.
    pub(super) fn write(&mut self, batch: &[u8]) -> Outcome {
        let torn = std::mem::take(&mut self.torn);
        let (written, result) = self.write_as_far_as_possible(batch, torn);
        let (done, rest) = batch.split_at(written);
        match result {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!(path = %self.path, "the access log is written again");
            }
            Ok(()) => {}
            Err(error) => {
                self.torn = if written == 0 { torn } else { !done.ends_with(b"\n") };
                self.open = None;
                if !self.failing {
                    self.failing = true;
                    tracing::warn!(path = %self.path, %error, "the access log cannot be written; lines are lost until it can");
                }
            }
        }
        Outcome { written: lines(done), failed: lines(rest) }
    }

    fn write_as_far_as_possible(&mut self, batch: &[u8], torn: bool) -> (usize, io::Result<()>) {
        let file = match self.open() {
            Ok(file) => file,
            Err(error) => return (0, Err(error)),
        };
        if torn && let Err(error) = write_all(file, b"\n").1 {
            return (0, Err(error));
        }
        write_all(file, batch)
    }

    fn open(&mut self) -> io::Result<&mut File> {
        let file = match self.open.take() {
            Some(file) => file,
            None => match &*self.path {
                "/dev/stdout" => io::stdout().as_fd().try_clone_to_owned()?.into(),
                "/dev/stderr" => io::stderr().as_fd().try_clone_to_owned()?.into(),
                path => OpenOptions::new().append(true).create(true).open(path)?,
            },
        };
        Ok(self.open.insert(file))
    }
}

/// How long to wait for a stream that somebody else has made non-blocking.
const BUSY: Duration = Duration::from_millis(5);

/// Writes all, and says how far it came.
fn write_all(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(BUSY),
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// Line ends; values have none, so these are lines unless the format itself breaks them.
fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_loses_lines_and_is_counted() {
        let mut sink = Sink::new(&"/dev/full".into());
        for _ in 0..2 {
            assert_eq!(sink.write(b"one\ntwo\n"), Outcome { written: 0, failed: 2 });
        }
    }

    #[test]
    fn a_file_that_could_not_be_opened_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("later/access.log");
        let mut sink = Sink::new(&path.to_str().unwrap().into());
        assert_eq!(sink.write(b"lost\n"), Outcome { written: 0, failed: 1 });
        std::fs::create_dir(folder.path().join("later")).unwrap();
        assert_eq!(sink.write(b"kept\n"), Outcome { written: 1, failed: 0 });
        assert_eq!(std::fs::read(&path).unwrap(), b"kept\n");
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        sink.reopen();
        assert_eq!(sink.write(b"new\n"), Outcome { written: 1, failed: 0 });
        assert_eq!(std::fs::read(&path).unwrap(), b"new\n");
    }

    #[test]
    fn after_a_torn_line_the_next_begins_on_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let mut sink = Sink::new(&path.to_str().unwrap().into());
        sink.torn = true;
        sink.write(b"whole\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"\nwhole\n");
        assert!(!sink.torn);
    }
}
