//! Plain text tables for the terminal.

use darwin_core::one_line;

/// Rows of cells, the first row being the head; the first column is left-aligned, the others
/// right-aligned.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    // a cell is one line of what a terminal shows, whatever a name holds
    let plain = |row: &Vec<String>| row.iter().map(|cell| one_line(cell).into_owned()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(plain).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|c| rows.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[c] - cell.chars().count());
            let gap = if c == 0 { "" } else { "  " };
            let padded = if c == 0 { format!("{cell}{pad}") } else { format!("{pad}{cell}") };
            line.push_str(gap);
            line.push_str(&padded);
        }
        text.push_str(line.trim_end());
        text.push('\n');
        if i == 0 {
            let width = widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1);
            text.push_str(&"-".repeat(width));
            text.push('\n');
        }
    }
    text
}

/// Bytes with a binary unit.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.2} {}", UNITS[unit]) }
}

/// A count with K, M, B as models are sized.
pub(crate) fn human_count(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1} K", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} M", n as f64 / 1e6),
        _ => format!("{:.2} B", n as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_stays_in_its_line() {
        let rows = vec![vec!["head".into()], vec!["a\nb\u{1b}".into()]];
        assert_eq!(table(&rows), "head\n--------------\na\\u000ab\\u001b\n");
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".into(), "n".into()], vec!["long".into(), "12".into()]];
        assert_eq!(table(&rows), "a      n\n--------\nlong  12\n");
        assert_eq!(human_bytes(1536), "1.50 KiB");
        assert_eq!(human_count(34_660_000_000), "34.66 B");
    }
}
