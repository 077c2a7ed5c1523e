//! Columns, and how moments and spans of time are written.

/// Columns two blanks apart, with headings.
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    line(&mut text, &widths, headings);
    for row in rows {
        line(&mut text, &widths, row.each_ref().map(String::as_str));
    }
    text
}

fn line<const N: usize>(text: &mut String, widths: &[usize; N], cells: [&str; N]) {
    let mut whole = String::new();
    for (width, cell) in widths.iter().zip(cells) {
        whole.push_str(cell);
        let blanks = width.saturating_sub(cell.chars().count()) + 2;
        whole.extend(std::iter::repeat_n(' ', blanks));
    }
    text.push_str(whole.trim_end());
    text.push('\n');
}

/// A word and what it is for, indented.
pub fn two_columns(rows: &[(String, String)]) -> String {
    let width = rows
        .iter()
        .map(|(name, _)| name.chars().count())
        .filter(|width| *width <= 32)
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (name, help) in rows {
        let blanks = width.saturating_sub(name.chars().count()) + 2;
        let line = format!("  {name}{}{help}", " ".repeat(blanks));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A moment as RFC 3339 writes it, in UTC.
pub fn moment(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, of_day) = (seconds / 86400, seconds % 86400);
    // Days since 0000-03-01: every four hundred years are alike, and a year ends with its leap day.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

/// A span of time as people say it.
pub fn span(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, 0) => format!("{minutes} min"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest() {
        let text = table(
            ["a", "bcd"],
            &[["long".into(), "x".into()], [String::new(), "ü".into()]],
        );
        assert_eq!(text, "a     bcd\nlong  x\n      ü\n");
    }

    #[test]
    fn moments_are_those_of_the_calendar() {
        assert_eq!(moment(0), "1970-01-01T00:00:00Z");
        assert_eq!(moment(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(moment(1_709_251_199_999), "2024-02-29T23:59:59Z");
        assert_eq!(moment(1_735_689_600_000), "2025-01-01T00:00:00Z");
        assert_eq!(moment(4_107_542_400_000), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn spans_are_short() {
        assert_eq!(span(59), "59 s");
        assert_eq!(span(600), "10 min");
        assert_eq!(span(61), "1 min 1 s");
        assert_eq!(span(7260), "2 h 1 min");
    }
}
