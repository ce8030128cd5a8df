//! The table, and what machine it was measured on.

use crate::Bench;

/// One line of the table.
pub struct Line {
    pub what: String,
    pub reference: &'static str,
    /// The figure that counts, in the unit of `reach` and `aim`.
    pub measured: Option<f64>,
    pub reach: f64,
    pub aim: f64,
    pub unit: Unit,
    /// Other figures, for people.
    pub detail: String,
}

/// What a figure is, and whether less of it is better.
#[derive(Clone, Copy, PartialEq)]
pub enum Unit {
    /// A ratio of costs: less is better.
    Times,
    /// A ratio of rates: more is better.
    Rate,
    /// Bytes a cell beyond the value's own.
    BytesPerCell,
    /// Milliseconds.
    Millis,
}

impl Unit {
    fn show(self, figure: f64) -> String {
        match self {
            Unit::Times | Unit::Rate if figure > 0.0 && figure < 0.1 => format!("1/{:.0}", 1.0 / figure),
            Unit::Times | Unit::Rate => format!("{figure:.2}x"),
            Unit::BytesPerCell => format!("{figure:+.1} bytes"),
            Unit::Millis => format!("{figure:.1} ms"),
        }
    }

    fn good(self, figure: f64, bound: f64) -> bool {
        if self == Unit::Rate { figure >= bound } else { figure <= bound }
    }
}

impl Line {
    fn verdict(&self) -> &'static str {
        match self.measured {
            None => "not measured",
            Some(figure) if self.unit.good(figure, self.aim) => "aim",
            Some(figure) if self.unit.good(figure, self.reach) => "reached",
            Some(_) => "**missed**",
        }
    }

    fn figure(&self) -> String {
        self.measured.map_or("-".into(), |figure| self.unit.show(figure))
    }

    /// One line for the terminal.
    pub fn summary(&self) -> String {
        format!("{}: {} ({}; {})", self.what, self.figure(), self.verdict(), self.detail)
    }
}

/// Where it was measured.
pub struct Machine {
    cores: usize,
    processor: String,
    load_before: String,
}

impl Machine {
    /// Reads it from /proc, before the run.
    pub fn look() -> Machine {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Machine {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: model.map_or("unknown processor", |(_, name)| name).to_owned(),
            load_before: load(),
        }
    }
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// The table with what it was measured on.
pub fn markdown(machine: &Machine, bench: &Bench, lines: &[Line]) -> String {
    let version: String =
        bench.cluster.connect("postgres").query_one("SHOW server_version", &[]).expect("server_version").get(0);
    let mut text = format!(
        "PostgreSQL {version}, {} cores, {}; load before {}, after {}. Medians of {} measurements in turns{}.\n\n",
        machine.cores,
        machine.processor,
        machine.load_before,
        load(),
        bench.options.repeats,
        if bench.options.shrink > 1 { format!(", sizes divided by {}", bench.options.shrink) } else { String::new() },
    );
    text.push_str(
        "| what | reference | measured | reach | aim | verdict | in detail |\n|---|---|---|---|---|---|---|\n",
    );
    for line in lines {
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} | {} | {} |\n",
            line.what,
            line.reference,
            line.figure(),
            line.unit.show(line.reach),
            line.unit.show(line.aim),
            line.verdict(),
            line.detail,
        ));
    }
    text
}

const BEGIN: &str = "<!-- bench: begin, written by make bench -->";
const END: &str = "<!-- bench: end -->";

/// Puts the table between the marks of a document, or makes the document.
pub fn write_into(path: &str, table: &str) {
    let old = std::fs::read_to_string(path).unwrap_or_else(|_| format!("# Benchmarks\n\n{BEGIN}\n{END}\n"));
    let (before, rest) = old.split_once(BEGIN).unwrap_or_else(|| panic!("{path} has no line {BEGIN}"));
    let (_, after) = rest.split_once(END).unwrap_or_else(|| panic!("{path} has no line {END}"));
    std::fs::write(path, format!("{before}{BEGIN}\n\n{table}\n{END}{after}")).unwrap_or_else(|e| panic!("{path}: {e}"));
    eprintln!("bench: wrote {path}");
}
