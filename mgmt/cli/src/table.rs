//! Columns, and how spans of time are written.

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
    fn spans_are_short() {
        assert_eq!(span(59), "59 s");
        assert_eq!(span(600), "10 min");
        assert_eq!(span(61), "1 min 1 s");
        assert_eq!(span(7260), "2 h 1 min");
    }
}
