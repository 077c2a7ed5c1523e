//! The table for people and the rows for programs.

use std::fmt;
use std::num::NonZeroUsize;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use super::machine::Machine;
use super::measure::Figure;
use super::plan::{Plan, VECTORS};

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
    /// Packets lay in huge pages of their own.
    pub huge_pages: bool,
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
            huge_pages: figure.huge_pages,
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

/// Clocks a packet by packets of a vector.
#[derive(Debug, Clone, Serialize)]
pub struct Sweep {
    /// `encrypt` or `forward`.
    pub path: &'static str,
    /// As in the rows.
    pub algorithm: String,
    /// Bytes of the inner IP packet.
    pub bytes: usize,
    /// Packets of a vector, and clocks; those without a figure are missing.
    pub clk_per_packet: Vec<(usize, f64)>,
}

impl Sweep {
    /// Of the clocks for each of [`VECTORS`].
    pub fn new(plan: Plan, clocks: [Option<f64>; VECTORS.len()]) -> Self {
        let both = VECTORS.into_iter().zip(clocks);
        Self {
            path: plan.path(),
            algorithm: plan.algorithm(),
            bytes: plan.bytes,
            clk_per_packet: both
                .filter_map(|(vector, clocks)| Some((vector, tenths(clocks?))))
                .collect(),
        }
    }
}

/// Two workers against one.
#[derive(Debug, Clone, Serialize)]
pub struct Scaling {
    /// What they do.
    pub name: &'static str,
    /// Clocks a packet while the other does nothing.
    pub clk_alone: f64,
    /// While both work.
    pub clk_together: f64,
    /// How much faster two are than one.
    pub speedup: f64,
    /// The same of two loops of ring's seal.
    pub ring_speedup: f64,
    /// One over the other, median of the rounds.
    pub ratio_to_ring: f64,
    /// Packets that came when the window had gone on.
    pub lost_to_window: u64,
    /// Rounds that count.
    pub rounds: usize,
    /// Rounds thrown away because the kernel took a core.
    pub disturbed_rounds: usize,
}

/// A forwarding table, loaded.
#[derive(Debug, Clone, Serialize)]
pub struct Loaded {
    /// Which.
    pub name: &'static str,
    /// How many routes it has.
    pub routes: usize,
    /// Insertions a second of processor time.
    pub routes_per_second: f64,
    /// The same by the clock on the wall.
    pub routes_per_second_by_the_wall: f64,
    /// Bytes of what workers read.
    pub node_bytes: usize,
    /// Bytes by which the process grew, with what the writer remembers.
    pub process_bytes: usize,
    /// Clocks of the time-stamp counter for the lookup of a random route's address, in vectors.
    pub lookup_clk: f64,
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
    /// The share of time that the hypervisor gave to others, in percent.
    pub stolen_percent: f64,
    /// What was measured.
    pub rows: Vec<Row>,
    /// By vector size.
    pub sweeps: Vec<Sweep>,
    /// By two workers.
    pub scalings: Vec<Scaling>,
    /// Forwarding tables.
    pub loads: Vec<Loaded>,
    /// Why there is no figure for others.
    pub failures: Vec<String>,
}

impl Report {
    /// Nothing measured yet.
    pub fn new(
        machine: Machine,
        engine: &'static str,
        vector: usize,
        workers: NonZeroUsize,
    ) -> Self {
        Self {
            machine,
            engine,
            vector,
            workers,
            stolen_percent: 0.0,
            rows: Vec::new(),
            sweeps: Vec::new(),
            scalings: Vec::new(),
            loads: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// For programs.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "processor": self.machine.processor,
            "counter_mhz": self.machine.megahertz,
            "clock_ratio": self.machine.clock_ratio,
            "ring": self.machine.ring,
            "engine": self.engine,
            "vector": self.vector,
            "workers": self.workers,
            "stolen_percent": self.stolen_percent,
            "rows": self.rows,
            "vector_sweep": self.sweeps,
            "two_workers": self.scalings,
            "tables": self.loads,
            "without_figure": self.failures,
        })
    }

    fn machine(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine {
            processor,
            megahertz,
            clock_ratio,
            ring,
        } = &self.machine;
        let huge_pages = self.rows.iter().any(|row| row.huge_pages);
        writeln!(f, "{processor}, time-stamp counter {megahertz:.0} MHz")?;
        writeln!(
            f,
            "{clock_ratio:.3} clocks of the counter for one of the core, {:.1} % stolen, {}",
            self.stolen_percent,
            if huge_pages {
                "huge pages of their own for packets"
            } else {
                "transparent huge pages for packets where the kernel gives them"
            }
        )?;
        writeln!(
            f,
            "engine {}, ring {ring}, vectors of {} packets, workers: {}, generator and sink left out",
            self.engine, self.vector, self.workers
        )
    }

    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = [
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
        ];
        let rows = self.rows.iter().map(|row| {
            let optional = |value: Option<f64>, digits: usize| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
            };
            vec![
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
            ]
        });
        writeln!(f, "{}", table(header, rows, &[2, 3, 4, 6, 7, 8, 9]))?;
        writeln!(
            f,
            "clk: clocks a packet, sum of the nodes, median of 15 windows. ratio, over: against the yardstick in the \
             same run.\nwall: wall clocks less a generator-to-sink run, against the sum of the nodes."
        )
    }

    fn sweeps(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["clk by packets of a vector".to_owned()]
            .into_iter()
            .chain(VECTORS.map(|vector| vector.to_string()));
        let rows = self.sweeps.iter().map(|sweep| {
            let name = format!("{} {} {}", sweep.path, sweep.algorithm, sweep.bytes);
            let clocks = VECTORS.map(|vector| {
                let found = sweep.clk_per_packet.iter().find(|(of, _)| *of == vector);
                found.map_or_else(|| "-".to_owned(), |(_, clocks)| format!("{clocks:.0}"))
            });
            [name].into_iter().chain(clocks).collect()
        });
        writeln!(f, "\n{}", table(header, rows, &[1, 2, 3, 4, 5, 6, 7]))
    }

    fn scalings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = [
            "",
            "clk alone",
            "together",
            "scaling",
            "ring's",
            "ratio",
            "lost",
        ];
        let rows = self.scalings.iter().map(|pair| {
            vec![
                pair.name.to_owned(),
                format!("{:.0}", pair.clk_alone),
                format!("{:.0}", pair.clk_together),
                format!("{:.2}", pair.speedup),
                format!("{:.2}", pair.ring_speedup),
                format!("{:.2}", pair.ratio_to_ring),
                pair.lost_to_window.to_string(),
            ]
        });
        writeln!(f, "\n{}", table(header, rows, &[1, 2, 3, 4, 5, 6]))?;
        writeln!(
            f,
            "scaling: two workers' speed over one's. ring's: of two seal loops on the same cores in the same rounds. lost: \
             to the replay window."
        )
    }

    fn loads(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = [
            "",
            "1000 routes/s",
            "by the wall",
            "nodes MiB",
            "process MiB",
            "lookup clk",
        ];
        let rows = self.loads.iter().map(|load| {
            let mebibytes = |bytes: usize| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
            vec![
                load.name.to_owned(),
                format!("{:.0}", load.routes_per_second / 1e3),
                format!("{:.0}", load.routes_per_second_by_the_wall / 1e3),
                mebibytes(load.node_bytes),
                mebibytes(load.process_bytes),
                format!("{:.1}", load.lookup_clk),
            ]
        });
        writeln!(f, "\n{}", table(header, rows, &[1, 2, 3, 4, 5]))
    }
}

/// Columns in the order of the header, these to the right.
fn table(
    header: impl IntoIterator<Item = impl Into<Cell>>,
    rows: impl Iterator<Item = Vec<String>>,
    right: &[usize],
) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.into_iter().map(Into::into).collect::<Vec<Cell>>());
    table.add_rows(rows);
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.machine(f)?;
        if !self.rows.is_empty() {
            self.table(f)?;
        }
        if !self.sweeps.is_empty() {
            self.sweeps(f)?;
        }
        if !self.scalings.is_empty() {
            self.scalings(f)?;
        }
        if !self.loads.is_empty() {
            self.loads(f)?;
        }
        for failure in &self.failures {
            writeln!(f, "no figure: {failure}")?;
        }
        Ok(())
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
