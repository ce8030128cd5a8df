//! How the demo looks: headings, paragraphs, aligned tables, progress.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How wide a line of text may be.
const WIDTH: usize = 100;

/// The heading of a part.
pub fn part(title: &str) {
    println!("\n{}\n{title}\n{}", "=".repeat(WIDTH), "=".repeat(WIDTH));
}

/// The heading of a step.
pub fn step(title: &str) {
    println!("\n--- {title}");
}

/// A paragraph, broken into lines.
pub fn text(paragraph: &str) {
    let mut line = String::new();
    for word in paragraph.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH - 4 {
            println!("    {line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    println!("    {line}");
}

/// Something that was typed, as psql would show it.
pub fn typed(sql: &str) {
    println!("    => {sql}");
}

/// What a statement answered, line by line.
pub fn answered(lines: &str) {
    lines.lines().for_each(|line| println!("       {line}"));
}

/// A table: numbers to the right, everything else to the left.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |i: usize| {
        let cells = rows.iter().map(|row| row[i].chars().count());
        cells.chain([head[i].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let right = |i: usize| rows.iter().all(|row| row[i].starts_with(|c: char| c.is_ascii_digit() || c == '-'));
    let line = |cells: Vec<&str>| {
        let cells = cells.iter().zip(&widths).enumerate().map(|(i, (cell, width))| match right(i) {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        println!("    {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    };
    println!();
    line(head.to_vec());
    line(widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>().iter().map(String::as_str).collect());
    rows.iter().for_each(|row| line(row.iter().map(String::as_str).collect()));
    println!();
}

/// What was promised, and whether it held. The demo stops when something did not.
pub fn check(what: &str, holds: bool) {
    println!("    [{}] {what}", if holds { "ok" } else { "NOT SO" });
    assert!(holds, "{what}: not so");
}

/// As [`check`], of what must not be there; the first few that are, are shown.
pub fn none(what: &str, found: &[String]) {
    found.iter().take(10).for_each(|line| println!("    {line}"));
    check(what, found.is_empty());
}

/// How far a long step is: one line that changes in a terminal, a line every few seconds elsewhere.
pub struct Progress {
    what: String,
    total: u64,
    start: Instant,
    shown: Option<Instant>,
}

impl Progress {
    /// Begins a step of `total` somethings.
    pub fn new(what: &str, total: u64) -> Progress {
        Progress { what: what.to_owned(), total, start: Instant::now(), shown: None }
    }

    /// So far.
    pub fn at(&mut self, done: u64, detail: &str) {
        let terminal = std::io::stdout().is_terminal();
        let pause = Duration::from_millis(if terminal { 100 } else { 4000 });
        if self.shown.unwrap_or(self.start).elapsed() < pause {
            return;
        }
        self.shown = Some(Instant::now());
        let line = format!("    {} {:>3}% {detail}", self.what, 100 * done / self.total.max(1));
        match terminal {
            true => print!("\r\x1b[K{line}"),
            false => println!("{line}"),
        }
        let _ = std::io::stdout().flush();
    }

    /// The step is over; how long it took.
    pub fn done(self) -> Duration {
        if std::io::stdout().is_terminal() {
            print!("\r\x1b[K");
        }
        self.start.elapsed()
    }
}

/// `1234567` as `1,234,567`.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Seconds, as far as anybody wants to know.
pub fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// So many a second.
pub fn rate(n: u64, time: Duration) -> String {
    number((n as f64 / time.as_secs_f64().max(1e-9)) as u64)
}

/// Bytes in kB or MB.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{} B", number(bytes)),
        10_000..10_000_000 => format!("{} kB", number(bytes / 1000)),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
