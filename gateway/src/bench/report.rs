//! The table for people and the rows for programs.

use std::fmt;
use std::num::NonZeroUsize;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::machine::Machine;
use super::measure::Figure;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// `encrypt`, `decrypt` or `forward`.
    pub path: &'static str,
    /// As in proposals; for forwarding the number of routes.
    pub algorithm: String,
    /// Bytes of the inner IP packet.
    pub bytes: usize,
    /// Clocks of the time-stamp counter a packet, summed over the nodes, median of 15 windows.
    pub clk_per_packet: f64,
    /// Those clocks as a share of the yardstick's in the same run.
    pub ratio_to_ring: Option<f64>,
    /// What the yardstick is.
    pub yardstick: Option<&'static str>,
    /// Clocks a packet of the yardstick.
    pub yardstick_clk: Option<f64>,
    /// Clocks a packet over the yardstick.
    pub clk_over_yardstick: Option<f64>,
    /// Inner bits a second of one worker, in thousand millions.
    pub gbit: f64,
    /// How far the wall clock is from the sum of the nodes.
    pub wall_difference_percent: f64,
    /// Packets measured.
    pub packets: u64,
    /// Packets of the output that were opened and compared.
    pub examined: usize,
    /// Slices thrown away because the kernel took the processor.
    pub disturbed_slices: u32,
    /// Clocks a packet of each node.
    pub nodes: serde_json::Map<String, serde_json::Value>,
}

impl Row {
    /// Of a figure.
    pub fn new(
        path: &'static str,
        algorithm: String,
        bytes: usize,
        yardstick: Option<&'static str>,
        figure: &Figure,
        megahertz: f64,
    ) -> Self {
        Self {
            path,
            algorithm,
            bytes,
            clk_per_packet: tenths(figure.clocks),
            ratio_to_ring: figure.ratio.map(thousandths),
            yardstick,
            yardstick_clk: figure.yardstick.map(tenths),
            clk_over_yardstick: figure.over.map(tenths),
            gbit: tenths(megahertz / figure.clocks * bytes as f64 * 8.0 / 1000.0),
            wall_difference_percent: tenths(figure.wall_difference),
            packets: figure.packets,
            examined: figure.examined,
            disturbed_slices: figure.disturbed,
            nodes: figure
                .nodes
                .iter()
                .map(|(node, clocks)| (node.name().to_owned(), tenths(*clocks).into()))
                .collect(),
        }
    }

    /// The mean of what workers have measured at the same time; Gbit/s, packets and the like are sums.
    pub fn of_all(rows: &[Self]) -> Option<Self> {
        let mean =
            |value: &dyn Fn(&Self) -> f64| rows.iter().map(value).sum::<f64>() / rows.len() as f64;
        let mean_of_some = |value: &dyn Fn(&Self) -> Option<f64>| {
            let values: Option<Vec<f64>> = rows.iter().map(value).collect();
            values.map(|values| values.iter().sum::<f64>() / values.len() as f64)
        };
        Some(Self {
            clk_per_packet: tenths(mean(&|row| row.clk_per_packet)),
            ratio_to_ring: mean_of_some(&|row| row.ratio_to_ring).map(thousandths),
            yardstick_clk: mean_of_some(&|row| row.yardstick_clk).map(tenths),
            clk_over_yardstick: mean_of_some(&|row| row.clk_over_yardstick).map(tenths),
            gbit: tenths(rows.iter().map(|row| row.gbit).sum()),
            wall_difference_percent: tenths(mean(&|row| row.wall_difference_percent)),
            packets: rows.iter().map(|row| row.packets).sum(),
            examined: rows.iter().map(|row| row.examined).sum(),
            disturbed_slices: rows.iter().map(|row| row.disturbed_slices).sum(),
            ..rows.first()?.clone()
        })
    }

    /// The nodes of this row with their clocks.
    pub fn nodes(&self) -> String {
        let nodes = self.nodes.iter();
        let texts: Vec<_> = nodes
            .map(|(name, clocks)| format!("{name} {clocks}"))
            .collect();
        texts.join(", ")
    }
}

fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Everything that a run has found.
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// The engine's name.
    pub engine: &'static str,
    /// Packets of a vector.
    pub vector: usize,
    /// Workers at the same time.
    pub workers: NonZeroUsize,
    /// The packets lay in huge pages.
    pub huge_pages: bool,
    /// The share of time that the hypervisor gave to others, in percent.
    pub stolen_percent: f64,
    /// What was measured.
    pub rows: Vec<Row>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine {
            processor,
            megahertz,
            clock_ratio,
            ring,
        } = &self.machine;
        writeln!(f, "{processor}, time-stamp counter {megahertz:.0} MHz")?;
        writeln!(
            f,
            "{clock_ratio:.3} clocks of the counter for one of the core, {:.1} % stolen, {}",
            self.stolen_percent,
            if self.huge_pages {
                "huge pages of their own for packets"
            } else {
                "transparent huge pages for packets where the kernel gives them"
            }
        )?;
        writeln!(
            f,
            "engine {}, ring {ring}, vectors of {} packets, workers: {}, generator and sink left out",
            self.engine, self.vector, self.workers
        )?;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header([
            "path",
            "algorithm",
            "bytes",
            "clk",
            "Gbit/s",
            "yardstick",
            "clk",
            "ratio",
            "over",
            "wall",
        ]);
        for row in &self.rows {
            let optional = |value: Option<f64>, digits: usize| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
            };
            table.add_row([
                row.path.to_owned(),
                row.algorithm.clone(),
                row.bytes.to_string(),
                format!("{:.0}", row.clk_per_packet),
                format!("{:.1}", row.gbit),
                row.yardstick.unwrap_or("-").to_owned(),
                optional(row.yardstick_clk, 0),
                optional(row.ratio_to_ring, 2),
                optional(row.clk_over_yardstick, 0),
                format!("{:+.1} %", row.wall_difference_percent),
            ]);
        }
        for column in [2, 3, 4, 6, 7, 8, 9] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        writeln!(f, "{table}")?;
        write!(
            f,
            "clk: clocks a packet, sum of the nodes, median of 15 windows. ratio, over: against the yardstick in the \
             same run.\nwall: wall clocks less a generator-to-sink run, against the sum of the nodes."
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn workers_add_up() {
        let row = |clocks: f64| {
            let figure = Figure {
                clocks,
                ratio: Some(clocks / 100.0),
                packets: 10,
                ..Figure::default()
            };
            Row::new(
                "encrypt",
                "aes128gcm16".to_owned(),
                1000,
                None,
                &figure,
                2000.0,
            )
        };
        let both = Row::of_all(&[row(100.0), row(200.0)]).unwrap();
        assert!((both.clk_per_packet - 150.0).abs() < 1e-9);
        assert!((both.ratio_to_ring.unwrap() - 1.5).abs() < 1e-9);
        assert!((both.gbit - (160.0 + 80.0)).abs() < 1e-9);
        assert_eq!((both.packets, both.yardstick_clk), (20, None));
        assert!(Row::of_all(&[]).is_none());
    }
}
