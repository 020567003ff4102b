//! Numbers as people read them.

use std::time::Duration;

/// `12 000`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// `3.1 ms`, `412 ms`; a dash for nothing.
pub(super) fn millis(duration: Option<Duration>) -> String {
    match duration.map(|duration| duration.as_secs_f64() * 1e3) {
        None => "–".to_owned(),
        Some(millis) if millis < 100.0 => format!("{millis:.1} ms"),
        Some(millis) => format!("{millis:.0} ms"),
    }
}

/// A share of one as percent: `10 %`, `49.3 %`.
pub(super) fn percent(share: f64) -> String {
    let text = format!("{:.1}", share * 100.0);
    format!("{} %", text.strip_suffix(".0").unwrap_or(&text))
}

/// `1:05`.
pub(super) fn clock(duration: Duration) -> String {
    format!("{}:{:02}", duration.as_secs() / 60, duration.as_secs() % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1 000", "1 234 567"]);
        let latencies =
            [None, Some(3_140), Some(412_300)].map(|micros| millis(micros.map(Duration::from_micros)));
        assert_eq!(latencies, ["–", "3.1 ms", "412 ms"]);
        assert_eq!([0.1, 0.4931, 1.0].map(percent), ["10 %", "49.3 %", "100 %"]);
        assert_eq!(clock(Duration::from_secs(65)), "1:05");
    }
}
