//! Dates and timestamps as PostgreSQL and JavaScript write them, as numbers and back.

use super::forms::Scratch;
use crate::ops::{Moment, Number};

const DAY: i64 = 86_400_000_000;
const ZONES: [&str; 4] = ["", "+00", "Z", "+00:00"];
const TRIMMED: u8 = 0;
const THREE: u8 = 1;
const SIX: u8 = 2;
const DAYS: u8 = 0;
const SECONDS: u8 = 1;
const MILLIS: u8 = 2;
const MICROS: u8 = 3;

/// How the timestamps of a column are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time {
    /// `T` between date and time, else a blank.
    t: bool,
    /// Which of [`ZONES`] follows.
    zone: u8,
    /// The fraction of a second: without zeros at its end, or always three or six digits.
    fraction: u8,
    /// What is counted: days (there is no time at all), seconds, milli- or microseconds, since 2000-01-01.
    unit: u8,
}

/// The moment of a number, if it lies in the years 1 to 9999: others are not written as [`Time`] reads them.
pub fn moment(kind: Moment, n: i64) -> Option<Number> {
    let day = if kind == Moment::Date { n } else { n.div_euclid(DAY) };
    (FIRST_DAY..=LAST_DAY).contains(&day).then_some(Number::Moment(kind, n))
}

/// Appends a moment as PostgreSQL writes it in the ISO style under UTC; `false`, and nothing, if it lies outside of the
/// years 1 to 9999.
pub fn write_moment(kind: Moment, n: i64, out: &mut String) -> bool {
    let mut scratch = Scratch::new();
    let within = scratch.time(Time::of(kind), n);
    if within {
        out.push_str(scratch.text());
    }
    within
}

impl Time {
    /// How PostgreSQL writes moments of a kind.
    pub fn of(kind: Moment) -> Self {
        let unit = if kind == Moment::Date { DAYS } else { MICROS };
        Time { t: false, zone: (kind == Moment::WithZone) as u8, fraction: TRIMMED, unit }
    }

    /// As one byte of the format.
    pub fn to_byte(self) -> u8 {
        self.t as u8 | self.zone << 1 | self.fraction << 3 | self.unit << 5
    }

    /// From one byte of the format.
    pub fn from_byte(b: u8) -> Option<Self> {
        let form = Time { t: b & 1 == 1, zone: b >> 1 & 3, fraction: b >> 3 & 3, unit: b >> 5 };
        (form.fraction <= SIX && form.unit <= MICROS).then_some(form)
    }

    /// The forms the text may be of, the likeliest first; all count days or microseconds.
    pub fn candidates(text: &str) -> impl Iterator<Item = Time> {
        let date = text.len() == 10;
        let shaped = text.len() >= 19 && text.is_ascii();
        let tail = if shaped { &text[19..] } else { "" };
        let zone_at = tail.find(['+', 'Z']).unwrap_or(tail.len());
        let zone = ZONES.iter().position(|z| *z == &tail[zone_at..]);
        let t = shaped && text.as_bytes()[10] == b'T';
        let fractions: &[u8] = match zone_at {
            _ if date => &[TRIMMED],
            4 => &[TRIMMED, THREE],
            7 => &[TRIMMED, SIX],
            _ => &[TRIMMED],
        };
        fractions.iter().filter_map(move |&fraction| match zone {
            _ if date => Some(Time { t: false, zone: 0, fraction, unit: DAYS }),
            Some(zone) if shaped => Some(Time { t, zone: zone as u8, fraction, unit: MICROS }),
            _ => None,
        })
    }

    /// Days, or microseconds, since 2000-01-01, if the text is exactly what [`Scratch::time`] writes for them.
    pub fn parse(self, text: &str) -> Option<i64> {
        let b = text.as_bytes();
        if b.len() < 10 || b[4] != b'-' || b[7] != b'-' {
            return None;
        }
        let (year, month, date) = (number(&b[..4])?, number(&b[5..7])?, number(&b[8..10])?);
        if year == 0 || !(1..=12).contains(&month) || date == 0 || date > month_days(year, month) {
            return None;
        }
        let day = day_number(year, month, date);
        if self.unit == DAYS {
            return (b.len() == 10).then_some(day);
        }
        Some(day * DAY + self.parse_clock(&b[10..])?)
    }

    fn parse_clock(self, b: &[u8]) -> Option<i64> {
        let b = b.strip_suffix(ZONES[self.zone as usize].as_bytes())?;
        if b.len() < 9 || b[0] != (if self.t { b'T' } else { b' ' }) || b[3] != b':' || b[6] != b':' {
            return None;
        }
        let (hour, minute, second) = (number(&b[1..3])?, number(&b[4..6])?, number(&b[7..9])?);
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let digits = match b[9..].split_first() {
            None => &b[9..],
            Some((b'.', digits)) => digits,
            Some(_) => return None,
        };
        let fits = match self.fraction {
            THREE => digits.len() == 3,
            SIX => digits.len() == 6,
            _ if b.len() == 9 => true,
            _ => (1..=6).contains(&digits.len()) && digits[digits.len() - 1] != b'0',
        };
        if !fits {
            return None;
        }
        let fraction = number(digits)? * 10u64.pow(6 - digits.len() as u32);
        Some(((hour * 60 + minute) * 60 + second) as i64 * 1_000_000 + fraction as i64)
    }

    /// The coarsest unit in which all these microseconds are whole; they are divided by it.
    pub fn coarsen(mut self, micros: &mut [i64]) -> Time {
        if self.unit == DAYS {
            return self;
        }
        self.unit = SECONDS;
        for &n in micros.iter() {
            if n % 1_000 != 0 {
                self.unit = MICROS;
                return self;
            }
            if n % 1_000_000 != 0 {
                self.unit = MILLIS;
            }
        }
        micros.iter_mut().for_each(|n| *n /= self.micros_per_unit());
        self
    }

    fn micros_per_unit(self) -> i64 {
        match self.unit {
            SECONDS => 1_000_000,
            MILLIS => 1_000,
            _ => 1,
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let mut n = 0;
    for b in digits {
        let d = b.wrapping_sub(b'0');
        if d > 9 {
            return None;
        }
        n = n * 10 + d as u64;
    }
    Some(n)
}

fn month_days(year: u64, month: u64) -> u64 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days before the first of March of year 0 are not needed; leap days fall at the end of a year that starts in March.
const fn march_days(year: u64, month: u64, date: u64) -> i64 {
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    (365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + date - 1) as i64
}

const EPOCH: i64 = march_days(2000, 1, 1);
const FIRST_DAY: i64 = day_number(1, 1, 1);
const LAST_DAY: i64 = day_number(9999, 12, 31);

/// Days since 2000-01-01 of a date from year 1 on.
const fn day_number(year: u64, month: u64, date: u64) -> i64 {
    march_days(year, month, date) - EPOCH
}

/// The date of a day from year 1 on: the inverse of [`day_number`].
fn civil(day: i64) -> (u64, u64, u64) {
    let days = (day + EPOCH) as u64;
    let (cycle, rest) = (days / 146_097, days % 146_097);
    // Leap days of the cycle before that day: one in 4 years, none in 100, the last day of the cycle is one.
    let year = (rest - rest / 1_460 + rest / 36_524 - rest / 146_096) / 365;
    let of_year = rest - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let year = cycle * 400 + year;
    if month < 10 { (year, month + 3, date) } else { (year + 1, month - 9, date) }
}

impl Scratch {
    /// Writes a moment as [`Time::parse`] reads it; `false` if it lies outside of the years 1 to 9999.
    pub fn time(&mut self, form: Time, n: i64) -> bool {
        self.len = 0;
        let (day, micros) = match form.unit {
            DAYS => (n, 0),
            _ => {
                let Some(micros) = n.checked_mul(form.micros_per_unit()) else { return false };
                (micros.div_euclid(DAY), micros.rem_euclid(DAY) as u64)
            }
        };
        if !(FIRST_DAY..=LAST_DAY).contains(&day) {
            return false;
        }
        let (year, month, date) = civil(day);
        self.digits(year, 4);
        self.push(b'-');
        self.digits(month, 2);
        self.push(b'-');
        self.digits(date, 2);
        if form.unit != DAYS {
            self.clock(form, micros);
        }
        true
    }

    fn clock(&mut self, form: Time, micros: u64) {
        self.push(if form.t { b'T' } else { b' ' });
        let seconds = micros / 1_000_000;
        self.digits(seconds / 3600, 2);
        self.push(b':');
        self.digits(seconds / 60 % 60, 2);
        self.push(b':');
        self.digits(seconds % 60, 2);
        let fraction = micros % 1_000_000;
        match form.fraction {
            TRIMMED if fraction == 0 => {}
            THREE => {
                self.push(b'.');
                self.digits(fraction / 1000, 3);
            }
            style => {
                self.push(b'.');
                self.digits(fraction, 6);
                while style == TRIMMED && self.bytes[self.len - 1] == b'0' {
                    self.len -= 1;
                }
            }
        }
        for &b in ZONES[form.zone as usize].as_bytes() {
            self.push(b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, ok) in [
            ("2024-02-29", true),
            ("2023-02-29", false),
            ("0001-01-01", true),
            ("9999-12-31", true),
            ("0000-01-01", false),
            ("1900-02-29", false),
            ("2000-02-29", true),
            ("2024-01-01 00:00:00", true),
            ("2024-01-01 24:00:00", false),
            ("2024-01-01 23:59:60", false),
            ("1999-12-31 23:59:59.999999+00", true),
            ("0001-01-01 00:00:00.1+00", true),
            ("2024-01-01 12:34:56.120+00", true),
            ("2024-01-01 12:34:56.12+00", true),
            ("2024-01-01 12:34:56.1200+00", false),
            ("2024-01-01 12:34:56.+00", false),
            ("2024-01-01T12:34:56.120Z", true),
            ("2024-01-01T12:34:56.000000Z", true),
            ("2024-01-01T12:34:56+00:00", true),
            ("2024-01-01T12:34:56+02", false),
            ("2024-01-01X12:34:56", false),
            ("2024-01-01é12:34:56", false),
        ] {
            let found = Time::candidates(text).find_map(|form| form.parse(text).map(|n| (form, n)));
            assert_eq!(found.is_some(), ok, "{text}");
            if let Some((form, n)) = found {
                let mut units = [n];
                let form = form.coarsen(&mut units);
                assert_eq!(Time::from_byte(form.to_byte()), Some(form));
                let mut scratch = Scratch::new();
                assert!(scratch.time(form, units[0]));
                assert_eq!(scratch.text(), text);
            }
        }
    }

    #[test]
    fn every_day_of_400_years() {
        let mut day = day_number(1999, 12, 31);
        for year in 2000..2400 {
            for month in 1..=12 {
                for date in 1..=month_days(year, month) {
                    day += 1;
                    assert_eq!((day_number(year, month, date), civil(day)), (day, (year, month, date)));
                }
            }
        }
    }

    #[test]
    fn any_byte_and_number_is_written_or_refused() {
        let mut scratch = Scratch::new();
        for form in (0..=255).filter_map(Time::from_byte) {
            for n in [0, 1, -1, i64::MIN, i64::MAX, 252_455_615_999_999_999, -63_082_281_600_000_000] {
                if scratch.time(form, n) {
                    assert!(!scratch.text().is_empty());
                }
            }
        }
    }
}
