//! The command line: a driver, then `--name value` pairs.

use std::collections::BTreeMap;

/// What was asked for.
pub struct Args(BTreeMap<String, String>);

impl Args {
    /// The driver's name and its arguments. Ends the program when they are not pairs.
    pub fn read() -> (String, Args) {
        let mut words = std::env::args().skip(1);
        let driver = words.next().unwrap_or_default();
        let mut pairs = BTreeMap::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").unwrap_or_else(|| usage(&word));
            let value = words.next().unwrap_or_else(|| usage(&word));
            pairs.insert(name.to_owned(), value);
        }
        (driver, Args(pairs))
    }

    /// A number, or what is usual. Ends the program when it is none.
    pub fn number(&self, name: &str, usual: u64) -> u64 {
        self.0.get(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| usage(name)))
    }

    /// A text that must be there.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or_else(|| usage(name), String::as_str)
    }

    /// Whether it was given.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

fn usage(word: &str) -> ! {
    eprintln!("cannot make sense of {word:?}: crdt_proof DRIVER --name value ...");
    std::process::exit(2)
}
