//! Times in logs: civil dates in UTC, and the part of strftime that Envoy's `START_TIME(…)` is used with.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// A parsed time format.
#[derive(Debug)]
pub(super) struct TimeFormat(Vec<Item>);

#[derive(Debug)]
enum Item {
    Literal(Box<str>),
    /// `%Y`
    Year,
    /// `%y`
    ShortYear,
    /// `%m`
    Month,
    /// `%b`
    MonthName,
    /// `%d`
    Day,
    /// `%e`
    PaddedDay,
    /// `%j`
    DayOfYear,
    /// `%a`
    Weekday,
    /// `%H`
    Hour,
    /// `%I`
    HalfDayHour,
    /// `%p`
    HalfDay,
    /// `%M`
    Minute,
    /// `%S`
    Second,
    /// `%s`
    Epoch,
    /// `%f`, `%1f` to `%9f`: so many digits of the second's fraction.
    Fraction(u32),
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

impl TimeFormat {
    /// Parses; the error names what is not known.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut items = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(percent) = rest.find('%') {
            literal += &rest[..percent];
            rest = &rest[percent + 1..];
            let (expansion, after) = parse_conversion(rest)?;
            rest = after;
            match expansion {
                Conversion::Text(text) => literal += text,
                Conversion::Items(found) => {
                    if !literal.is_empty() {
                        items.push(Item::Literal(std::mem::take(&mut literal).into()));
                    }
                    items.extend(found);
                }
            }
        }
        literal += rest;
        if !literal.is_empty() {
            items.push(Item::Literal(literal.into()));
        }
        Ok(Self(items))
    }

    pub(super) fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
        let civil = Civil::of(time);
        for item in &self.0 {
            civil.write(item, out);
        }
    }
}

enum Conversion {
    Text(&'static str),
    Items(Vec<Item>),
}

fn parse_conversion(text: &str) -> Result<(Conversion, &str), String> {
    let mut characters = text.chars();
    let first = characters.next().ok_or("ends with a single %")?;
    let rest = characters.as_str();
    if let Some(digits) = first.to_digit(10) {
        let after = rest.strip_prefix('f').filter(|_| digits > 0);
        let after = after.ok_or_else(|| format!("unknown conversion %{first}"))?;
        return Ok((Conversion::Items(vec![Item::Fraction(digits)]), after));
    }
    let colon = |one, two, three| vec![one, Item::Literal(":".into()), two, Item::Literal(":".into()), three];
    let items = match first {
        '%' => return Ok((Conversion::Text("%"), rest)),
        'n' => return Ok((Conversion::Text(" "), rest)),
        't' => return Ok((Conversion::Text("\t"), rest)),
        // Times are UTC.
        'z' => return Ok((Conversion::Text("+0000"), rest)),
        'Z' => return Ok((Conversion::Text("UTC"), rest)),
        'Y' => vec![Item::Year],
        'y' => vec![Item::ShortYear],
        'm' => vec![Item::Month],
        'b' | 'h' => vec![Item::MonthName],
        'd' => vec![Item::Day],
        'e' => vec![Item::PaddedDay],
        'j' => vec![Item::DayOfYear],
        'a' => vec![Item::Weekday],
        'H' => vec![Item::Hour],
        'I' => vec![Item::HalfDayHour],
        'p' => vec![Item::HalfDay],
        'M' => vec![Item::Minute],
        'S' => vec![Item::Second],
        's' => vec![Item::Epoch],
        'f' => vec![Item::Fraction(9)],
        'T' => colon(Item::Hour, Item::Minute, Item::Second),
        'F' => vec![Item::Year, Item::Literal("-".into()), Item::Month, Item::Literal("-".into()), Item::Day],
        'R' => vec![Item::Hour, Item::Literal(":".into()), Item::Minute],
        other => return Err(format!("unknown conversion %{other}")),
    };
    Ok((Conversion::Items(items), rest))
}

/// Appends `2026-01-31T12:34:56.789Z`.
pub(super) fn write_rfc3339(time: SystemTime, out: &mut Vec<u8>) {
    let civil = Civil::of(time);
    let Civil { year, month, day, hour, minute, second, nanos, .. } = civil;
    let millis = nanos / 1_000_000;
    // Writing to a Vec does not fail.
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z");
}

/// A moment by the calendar, UTC.
struct Civil {
    epoch: u64,
    year: u64,
    /// 1 to 12.
    month: u64,
    /// 1 to 31.
    day: u64,
    /// 1 to 366.
    day_of_year: u64,
    /// 0 is Sunday.
    weekday: u64,
    hour: u64,
    minute: u64,
    second: u64,
    nanos: u32,
}

impl Civil {
    /// Times before 1970 count as its beginning.
    fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch = since.as_secs();
        let days = epoch / 86_400;
        // Howard Hinnant's `civil_from_days`: years begin in March, so that the leap day is the last day of a year.
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_march_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_march_year + 2) / 153;
        let day = day_of_march_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
        let day_of_year =
            if month > 2 { day_of_march_year + 60 + u64::from(leap) } else { day_of_march_year - 305 };
        Self {
            epoch,
            year,
            month,
            day,
            day_of_year,
            weekday: (days + 4) % 7,
            hour: epoch / 3_600 % 24,
            minute: epoch / 60 % 60,
            second: epoch % 60,
            nanos: since.subsec_nanos(),
        }
    }

    fn write(&self, item: &Item, out: &mut Vec<u8>) {
        let half_day_hour = (self.hour + 11) % 12 + 1;
        // Writing to a Vec does not fail.
        let _ = match item {
            Item::Literal(text) => out.write_all(text.as_bytes()),
            Item::Year => write!(out, "{:04}", self.year),
            Item::ShortYear => write!(out, "{:02}", self.year % 100),
            Item::Month => write!(out, "{:02}", self.month),
            Item::MonthName => out.write_all(name(&MONTHS, self.month - 1)),
            Item::Day => write!(out, "{:02}", self.day),
            Item::PaddedDay => write!(out, "{:2}", self.day),
            Item::DayOfYear => write!(out, "{:03}", self.day_of_year),
            Item::Weekday => out.write_all(name(&WEEKDAYS, self.weekday)),
            Item::Hour => write!(out, "{:02}", self.hour),
            Item::HalfDayHour => write!(out, "{half_day_hour:02}"),
            Item::HalfDay => out.write_all(if self.hour < 12 { b"AM" } else { b"PM" }),
            Item::Minute => write!(out, "{:02}", self.minute),
            Item::Second => write!(out, "{:02}", self.second),
            Item::Epoch => write!(out, "{}", self.epoch),
            Item::Fraction(digits) => {
                let fraction = self.nanos / 10_u32.pow(9 - digits);
                write!(out, "{fraction:0width$}", width = *digits as usize)
            }
        };
    }
}

fn name(names: &[&'static str], index: u64) -> &'static [u8] {
    names.get(index as usize).map(|name| name.as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn show(format: &str, seconds: u64, nanos: u32) -> String {
        let mut out = Vec::new();
        TimeFormat::parse(format).unwrap().write(UNIX_EPOCH + Duration::new(seconds, nanos), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn dates_are_right_around_leap_days_and_years() {
        let format = "%F %T %a %j";
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 Thu 001"),
            (951_782_399, "2000-02-28 23:59:59 Mon 059"),
            (951_782_400, "2000-02-29 00:00:00 Tue 060"),
            (951_868_800, "2000-03-01 00:00:00 Wed 061"),
            (1_735_689_599, "2024-12-31 23:59:59 Tue 366"),
            (1_735_689_600, "2025-01-01 00:00:00 Wed 001"),
            (4_107_542_400, "2100-03-01 00:00:00 Mon 060"),
        ] {
            assert_eq!(show(format, seconds, 0), text);
        }
    }

    #[test]
    fn fractions_and_the_rest_of_the_conversions() {
        assert_eq!(show("%s.%3f|%f|%1f|%9f", 5, 123_456_789), "5.123|123456789|1|123456789");
        assert_eq!(show("%d/%b/%Y:%H:%M:%S %z", 1_735_689_600, 0), "01/Jan/2025:00:00:00 +0000");
        assert_eq!(show("%I%p %I%p %e%%", 1_735_689_600, 0), "12AM 12AM  1%");
        assert_eq!(show("100%% at %R", 1_735_738_200, 0), "100% at 13:30");
        assert!(TimeFormat::parse("%Q").is_err());
        assert!(TimeFormat::parse("%0f").is_err());
        assert!(TimeFormat::parse("%").is_err());
    }
}
