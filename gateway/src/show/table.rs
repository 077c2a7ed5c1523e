//! A plain table: a line of headings, numbers to the right, two spaces between columns.

use comfy_table::{CellAlignment, Table, presets};

/// One line.
pub(super) trait Row {
    /// Headings; those that begin with `#` are of numbers.
    const HEADINGS: &'static [&'static str];

    /// As many as there are headings.
    fn cells(&self) -> Vec<String>;
}

/// The table as text; what is empty is said to be.
pub(super) fn render<R: Row>(rows: &[R]) -> String {
    if rows.is_empty() {
        return "nothing\n".to_owned();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(R::HEADINGS.iter().map(|name| name.trim_start_matches('#')));
    table.add_rows(rows.iter().map(Row::cells));
    for (number, name) in R::HEADINGS.iter().enumerate() {
        if let Some(column) = table.column_mut(number) {
            column.set_padding((0, 2));
            if name.starts_with('#') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair(&'static str, u64);

    impl Row for Pair {
        const HEADINGS: &'static [&'static str] = &["name", "#packets"];

        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned(), self.1.to_string()]
        }
    }

    #[test]
    fn numbers_stand_to_the_right_and_lines_end_with_their_text() {
        let text = render(&[Pair("ip4-lookup", 7), Pair("punt", 1200)]);
        assert_eq!(
            text,
            "name        packets\nip4-lookup        7\npunt           1200\n"
        );
        assert_eq!(render::<Pair>(&[]), "nothing\n");
    }
}
