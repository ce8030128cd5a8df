//! What a client was told, in a file, for the checker.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use crdt_engine::Limits;
use crdt_engine::wire::{Batch, PushRequest, binary};

/// One thing a client was told.
pub enum Told {
    /// Events that were accepted from it, or that a reader was given: they must stay.
    Kept(Batch),
    /// A value of which COMMIT said that it is written, on disk: it must be in the log, once.
    Committed(i64),
    /// What it knows and shows at the end: its version vector as JSON, and a digest of its tables.
    Shown(String, u64),
    /// What went wrong.
    Failed(String),
}

/// Writes what a client was told.
pub struct Recorder(BufWriter<File>);

impl Recorder {
    /// A new file.
    pub fn create(path: &Path) -> Recorder {
        Recorder(BufWriter::new(File::create(path).expect("a file for what the client was told")))
    }

    /// Adds one thing.
    pub fn tell(&mut self, told: Told) {
        let (kind, bytes) = match told {
            Told::Kept(batch) if batch.runs.is_empty() => return,
            Told::Kept(batch) => {
                let request = PushRequest { peer_id: "p".into(), batch, frontier: vec![] };
                (b'K', binary::encode_push(&request).expect("a batch that was sent"))
            }
            Told::Committed(value) => (b'C', value.to_le_bytes().to_vec()),
            Told::Shown(versions, digest) => {
                let mut bytes = digest.to_le_bytes().to_vec();
                bytes.extend_from_slice(versions.as_bytes());
                (b'S', bytes)
            }
            Told::Failed(what) => (b'F', what.into_bytes()),
        };
        let file = &mut self.0;
        let written = file.write_all(&[kind]).and_then(|()| file.write_all(&(bytes.len() as u64).to_le_bytes()));
        written.and_then(|()| file.write_all(&bytes)).expect("room on the disk");
    }

    /// Everything told so far is in the file.
    pub fn flush(&mut self) {
        self.0.flush().expect("room on the disk");
    }
}

/// What a client wrote.
pub fn read(path: &Path) -> Vec<Told> {
    let mut bytes = vec![];
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).expect("what the client was told");
    let (mut rest, mut all) = (bytes.as_slice(), vec![]);
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    while let [kind, tail @ ..] = rest {
        let len = number(&tail[..8]) as usize;
        let body = &tail[8..8 + len];
        rest = &tail[8 + len..];
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        all.push(match kind {
            b'K' => Told::Kept(binary::decode_push(body, &Limits::trusted()).expect("what was written").batch),
            b'C' => Told::Committed(number(body) as i64),
            b'S' => Told::Shown(text(&body[8..]), number(&body[..8])),
            _ => Told::Failed(text(body)),
        });
    }
    all
}
