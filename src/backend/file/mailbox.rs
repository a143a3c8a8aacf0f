//! Messages to a manager: 16 bytes each, through a FIFO that it and the senders have open for reading *and* writing, so that nobody
//! gets a broken pipe.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::{Errno, read, write};
use rustix::pipe::fcntl_getpipe_size;

use super::directory::Directory;
use super::error::failed;
use super::ticket::Place;
use crate::backend::Result;
use crate::process::inbox::Source;

const BYTES: usize = 16;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The claim at this place may hold its key now.
    Look { inode: u64, place: Place },
    /// Any claim may hold its key now.
    LookAll,
    /// A lease or a claim may have been evicted.
    Check,
}

impl Message {
    fn to_bytes(self) -> [u8; BYTES] {
        // No file has the inode 0.
        let (inode, rest) = match self {
            Self::Look { inode, place } => (inode, place.byte()),
            Self::LookAll => (0, 0),
            Self::Check => (0, 1),
        };
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&inode.to_ne_bytes());
        bytes[8..].copy_from_slice(&rest.to_ne_bytes());
        bytes
    }

    fn of_bytes(bytes: [u8; BYTES]) -> Self {
        let number = |half: &[u8]| u64::from_ne_bytes(half.try_into().unwrap_or_default());
        match (number(&bytes[..8]), number(&bytes[8..])) {
            (0, 1) => Self::Check,
            (0, _) => Self::LookAll,
            (inode, byte) => Self::Look { inode, place: Place::at(byte.cast_signed()) },
        }
    }
}

/// Sends a message. Without effect if the mailbox is full: its owner then looks at everything.
pub(super) fn send(mailbox: &OwnedFd, message: Message) {
    // 16 bytes are written as a whole or not at all.
    let _ = write(mailbox, &message.to_bytes());
}

/// Sends a message to all managers.
pub(super) fn send_to_all(directory: &Directory, message: Message) {
    for name in directory.mailboxes.names().unwrap_or_default() {
        if let Some(mailbox) = open(directory, &name) {
            send(&mailbox, message);
        }
    }
}

/// Opens the mailbox of another manager.
pub(super) fn open(directory: &Directory, name: &str) -> Option<OwnedFd> {
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mailbox = directory.mailboxes.open(name, OFlags::RDWR | OFlags::NONBLOCK);
    if is_name { mailbox.ok() } else { None }
}

/// The mailbox of a manager.
#[derive(Debug)]
pub(super) struct Mailbox {
    pub(super) name: String,
    pub(super) source: Arc<Source>,
    /// One thread takes all: how much there was says whether all had fitted in.
    taking: Mutex<()>,
    capacity: usize,
}

impl Mailbox {
    /// Makes a mailbox. It gets its name once it is open: a sweep removes those that nobody reads.
    pub(super) fn create(directory: &Directory) -> Result<Self> {
        let failed = |error| failed("make a mailbox", error);
        let name = format!("{:016x}", rand::random::<u64>());
        let draft = format!(".{name}");
        let fifo = directory.mailboxes.create_fifo(&draft, OFlags::RDWR).map_err(failed)?;
        directory.mailboxes.rename(&draft, &name).map_err(failed)?;
        let capacity = fcntl_getpipe_size(&fifo).map_err(failed)?;
        let source = Arc::new(Source::new(fifo).map_err(failed)?);
        Ok(Self { name, source, taking: Mutex::default(), capacity })
    }

    /// Takes all messages out.
    pub(super) fn take(&self) -> Vec<Message> {
        let _taking = self.taking.lock();
        let (mut messages, mut total, mut bytes) = (Vec::new(), 0, [0; 64 * BYTES]);
        loop {
            let length = match read(&self.source.fifo, &mut bytes[..]) {
                Ok(length) => length,
                Err(Errno::INTR) => continue,
                Err(_) => 0,
            };
            total += length;
            let chunks = bytes[..length].chunks_exact(BYTES);
            messages.extend(chunks.map(|chunk| Message::of_bytes(chunk.try_into().unwrap_or_default())));
            if length < bytes.len() {
                break;
            }
        }
        // Others may not have fitted in.
        if total + BYTES > self.capacity {
            messages.extend([Message::LookAll, Message::Check]);
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    #[test]
    fn messages_arrive_and_a_full_mailbox_means_everything() {
        let scratch = Scratch::new();
        let directory = Directory::open(scratch.path(), None).unwrap();
        let mailbox = Mailbox::create(&directory).unwrap();
        assert!(mailbox.take().is_empty());
        let sender = open(&directory, &mailbox.name).unwrap();
        let look = Message::Look { inode: 5, place: Place::at(1 << 60) };
        send(&sender, look);
        send(&sender, Message::Check);
        send_to_all(&directory, Message::LookAll);
        assert_eq!(mailbox.take(), [look, Message::Check, Message::LookAll]);
        // Sending to a full one does not block.
        for _ in 0..mailbox.capacity / BYTES + 10 {
            send(&sender, look);
        }
        let messages = mailbox.take();
        assert_eq!(messages.len(), mailbox.capacity / BYTES + 2);
        assert_eq!(messages[messages.len() - 2..], [Message::LookAll, Message::Check]);
        assert!(mailbox.take().is_empty());
    }

    #[test]
    fn names_cannot_lead_elsewhere() {
        let scratch = Scratch::new();
        let directory = Directory::open(scratch.path(), None).unwrap();
        for name in ["", "../slots", ".", "x/y"] {
            assert!(open(&directory, name).is_none(), "{name}");
        }
    }
}
