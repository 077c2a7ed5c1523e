//! `culvert lab demo`: everything two gateways can do, shown and proved within a minute or so.
//!
//! ```text
//!   kernel   the hops forwarded by Linux                      tcp_kernel_mbit
//!   start    as from the factory: an admin, a LAN, sshd
//!   clear    configured over SSH by their operators           configure_a_ms, configure_b_ms, changes, drivers
//!            the hops forwarded by Culvert, plain routes      tcp_clear_mbit, udp_clear_mbit
//!   tunnel   ─┬─ capture of the untrusted side begins
//!             ├─ the same ways to a tunnel, without a restart changes
//!             ├─ IKEv2                                        ike_up_ms
//!             ├─ ping                                         ping_loss_percent, ping_avg_ms
//!             ├─ TCP, and what each node cost                 tcp_tunnel_mbit, nodes, shares
//!             ├─ UDP                                          udp_tunnel_mbit
//!             ├─ rekeying under numbered datagrams            rekey_lost_packets
//!             └─ gateways stop, the capture ends              wan_cleartext_packets
//! ```

mod configure;
mod measure;
mod progress;
mod rekey;
mod report;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use culvert_model::tree::TreeError;
use culvert_netlab::{
    addressing::{Place, Side},
    capture::{Capture, CaptureError, CaptureReport, Depth},
    classify::WanClass,
    iperf::{IperfError, Transport},
    knock::KnockError,
    namespace::NamespaceError,
    packet_socket::Seen,
    ping::PingError,
    probe::ProbeError,
    process::{Interrupt, ProcessError, ProcessorTimes},
    topology::TopologyError,
};

use self::{
    configure::{Change, OPERATOR, Operator},
    measure::Hosts,
    progress::Progress,
    report::{GatewayNode, IkeFacts, Report, Shares},
};
use super::{
    RunArguments,
    configuration::{Admin, CHILD, Path, Start, first, managed},
    control::{Control, ControlError, installed_child},
    laboratory::{Laboratory, LaboratoryError},
};

/// Opens the payload of everything that is sent inside; 16 bytes, as many as ping repeats.
const MARKER: &[u8; 16] = b"culvert-in-clear";
/// How long a negotiation may take on a busy machine.
const NEGOTIATION: Duration = Duration::from_secs(20);
/// How long a path may take to open once its gateways say that they are ready.
const OPENING: Duration = Duration::from_secs(10);

/// The kernel counts processor time in steps of 10 ms: over that long, half a percent of a core.
const IDLE: Duration = Duration::from_secs(2);

/// What `culvert lab demo` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave the laboratory up.
    #[arg(long)]
    pub keep: bool,
    /// Length of each TCP and UDP measurement, of which there are ten.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    #[command(flatten)]
    run: RunArguments,
}

/// Why a demonstration could not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The laboratory.
    #[error(transparent)]
    Laboratory(#[from] LaboratoryError),
    /// Namespaces and links.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// A namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A gateway's answer.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The capture.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The numbered datagrams.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The search for a first answer.
    #[error(transparent)]
    Knock(#[from] KnockError),
    /// ping
    #[error(transparent)]
    Ping(#[from] PingError),
    /// iperf3
    #[error(transparent)]
    Iperf(#[from] IperfError),
    /// Somebody asked for an end.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Gateways were ready, and nothing came through.
    #[error("host-a does not reach host-b: {0}")]
    Closed(&'static str),
    /// charon says that it is done, and shows no CHILD_SA.
    #[error("gateway-a shows no installed CHILD_SA called {CHILD}")]
    NoChild,
    /// A rekeying was asked for and did not happen.
    #[error("{0} was not rekeyed by {1}")]
    NotRekeyed(&'static str, &'static str),
    /// Keys and files of the operator.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It is ready, and its sshd is not.
    #[error("nobody can log in to {0}")]
    NoLogin(&'static str),
    /// A configuration of the laboratory's own.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The results could not be written.
    #[error("{path}: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Runs it all and says what it finds. Answers whether all of it held; fails only when the results cannot be
/// written.
pub fn run(
    laboratory: &mut Laboratory,
    arguments: &Arguments,
    interrupt: &Interrupt,
) -> Result<bool, DemoError> {
    let mut demo = Demo {
        laboratory,
        arguments,
        interrupt,
        progress: Progress::new(),
        report: Report::default(),
    };
    let outcome = demo.run();
    if let Err(error) = &outcome {
        demo.progress.failed(&error.to_string());
    }
    let mut report = demo.report;
    report.conclude(outcome.as_ref().err().map(ToString::to_string));
    if let Some(path) = &arguments.json {
        report.write(path).map_err(|source| DemoError::Json {
            path: path.clone(),
            source,
        })?;
    }
    for check in report.checks.iter().filter(|check| !check.held) {
        println!("did not hold: {}", check.what);
    }
    Ok(report.ok)
}

fn admin(operator: &Operator) -> Admin<'_> {
    Admin {
        name: OPERATOR,
        public_key: operator.public_key(),
    }
}

struct Demo<'a> {
    laboratory: &'a mut Laboratory,
    arguments: &'a Arguments,
    interrupt: &'a Interrupt,
    progress: Progress,
    report: Report,
}

impl Demo<'_> {
    fn run(&mut self) -> Result<(), DemoError> {
        self.progress.step("laboratory");
        // Whatever an earlier one has left would take part in the measurement.
        self.laboratory.tear_down()?;
        self.laboratory.build()?;
        let names: Vec<&str> = Place::ALL.iter().map(|place| place.name()).collect();
        self.progress.done(&names.join(" ── "));
        let hosts = Hosts::open(self.laboratory.topology())?;
        self.kernel(&hosts)?;
        let operator = Operator::new(self.laboratory.folder())?;
        self.clear(&hosts, &operator)?;
        self.tunnel(&hosts, &operator)
    }

    fn kernel(&mut self, hosts: &Hosts) -> Result<(), DemoError> {
        self.laboratory.topology().forward_in_kernel()?;
        let both = self.throughput(
            hosts,
            Transport::Tcp,
            "kernel",
            "TCP, hops forwarded by the kernel",
        );
        self.laboratory.topology().release_gateways()?;
        self.report.tcp_kernel_mbit = Some(both?);
        Ok(())
    }

    fn clear(&mut self, hosts: &Hosts, operator: &Operator) -> Result<(), DemoError> {
        self.begin(hosts, operator)?;
        self.configure(hosts, operator, "plain routes", None, Path::Clear)?;
        self.progress.step("how frames come and go");
        let (held, text) = self.drivers()?;
        self.progress.end_as(held, &text);
        self.report.tcp_clear_mbit = Some(self.throughput(
            hosts,
            Transport::Tcp,
            "clear",
            "TCP, hops forwarded by Culvert in the clear",
        )?);
        self.report.udp_clear_mbit = Some(self.throughput(
            hosts,
            Transport::Udp,
            "clear",
            "UDP, hops forwarded by Culvert in the clear",
        )?);
        Ok(())
    }

    fn tunnel(&mut self, hosts: &Hosts, operator: &Operator) -> Result<(), DemoError> {
        let file = self.laboratory.folder().join("wan.pcap");
        let wan = self.laboratory.topology().open(Place::Wan)?;
        // From before the routes lead into a tunnel until after the gateways stop: nothing may leave in the clear.
        let capture = Capture::start(&wan, Seen::Received, MARKER, Some(&file))?;
        self.configure(
            hosts,
            operator,
            "a tunnel",
            Some(Path::Clear),
            Path::Tunnel(Start::OnRequest),
        )?;
        let controls = [
            Control::new(&self.laboratory.root(Side::A))?,
            Control::new(&self.laboratory.root(Side::B))?,
        ];
        let [control_a, _] = &controls;
        self.negotiate(hosts, control_a)?;
        let mut inner = self.ping(hosts)?;
        self.idle()?;
        for control in &controls {
            control.take_node_costs()?;
        }
        // A copy of each of some hundred thousand ESP packets a second would be measured along.
        capture.set_depth(Depth::NoEsp)?;
        let before = self.dataplane_times();
        let tcp = self.throughput(hosts, Transport::Tcp, "tunnel", "TCP, through the tunnel");
        let after = self.dataplane_times();
        self.report.tcp_tunnel_mbit = Some(tcp?);
        self.node_costs(&controls)?;
        self.shares(before, after);
        let udp = self.throughput(hosts, Transport::Udp, "tunnel", "UDP, through the tunnel");
        capture.set_depth(Depth::All)?;
        self.report.udp_tunnel_mbit = Some(udp?);
        self.ratios();
        inner += self.rekey(hosts, &controls)?;
        self.drops(&controls)?;
        self.revisions(hosts, operator)?;
        self.progress.step("both gateways stop");
        let orderly = self.laboratory.stop_gateways();
        self.progress
            .end_as(orderly, if orderly { "in order" } else { "not in order" });
        self.report.check("gateways stop in order", orderly);
        self.prove(&capture.stop()?, inner, &file);
        if self.arguments.keep {
            self.laboratory.build()?;
            self.start("both gateways, to stay", Path::Tunnel(Start::GatewayA))?;
        }
        Ok(())
    }

    /// Starts both as they come from the factory, and waits until their operators can log in.
    fn begin(&mut self, hosts: &Hosts, operator: &Operator) -> Result<(), DemoError> {
        self.progress
            .step("both gateways, as from the factory: a LAN and one admin");
        let begin = Instant::now();
        self.laboratory.build()?;
        let admin = admin(operator);
        self.laboratory.start_gateways_from(
            |side| first(side, admin),
            &self.arguments.run.options(),
            self.interrupt,
        )?;
        let ready = begin.elapsed().as_millis();
        for side in Side::BOTH {
            let root = self.laboratory.root(side);
            operator.meet(side, hosts.beside(side), &root, self.interrupt)?;
        }
        self.progress.done(&format!(
            "ready in {ready} ms, logged in to after {} ms",
            begin.elapsed().as_millis()
        ));
        Ok(())
    }

    /// Both gateways, each the way its operator likes: gateway-a by lines, gateway-b by a file.
    fn configure(
        &mut self,
        hosts: &Hosts,
        operator: &Operator,
        what: &'static str,
        before: Option<Path>,
        path: Path,
    ) -> Result<(), DemoError> {
        let admin = admin(operator);
        let (a, b) = (Side::A, Side::B);
        let old = match before {
            None => first(a, admin),
            Some(path) => managed(a, path, admin),
        };
        let changes = configure::lines(&old, &managed(a, path, admin))?;
        let count = changes.lines().count();
        let script = format!("configure\n{changes}commit comment \"{what}\"\nexit\n");
        let name = a.gateway().name();
        self.progress.step(&format!("{what}: {name}"));
        let begin = Instant::now();
        operator.by_ssh(a, hosts.beside(a), &script, self.interrupt)?;
        let by = format!("{OPERATOR} from host-a, {count} set and delete lines by ssh");
        self.changed(a, what, by, begin);

        let pushed = operator.write(b, &managed(b, path, admin))?;
        let file = pushed.to_string_lossy();
        let name = b.gateway().name();
        self.progress.step(&format!("{what}: {name}"));
        let begin = Instant::now();
        let arguments = ["config", "push", &file, "--comment", what];
        operator.by_remote(b, hosts.beside(b), &arguments, self.interrupt)?;
        // It has the secret in it, and has done its work.
        let _ = std::fs::remove_file(&pushed);
        let by = format!("{OPERATOR} from host-b, by culvert remote config push");
        self.changed(b, what, by, begin);
        Ok(())
    }

    fn changed(&mut self, side: Side, what: &'static str, by: String, begin: Instant) {
        let ms = begin.elapsed().as_secs_f64() * 1e3;
        self.progress
            .done(&format!("committed in {ms:.0} ms by {by}"));
        let first = match side {
            Side::A => &mut self.report.configure_a_ms,
            Side::B => &mut self.report.configure_b_ms,
        };
        first.get_or_insert(ms);
        self.report.changes.push(Change {
            gateway: side.gateway().name(),
            what,
            by,
            ms,
        });
    }

    /// What each gateway remembers of its changes, asked the way it was changed.
    fn revisions(&mut self, hosts: &Hosts, operator: &Operator) -> Result<(), DemoError> {
        self.progress.step("what the gateways remember of it");
        let question = "show configuration revisions";
        let (a, b) = (Side::A, Side::B);
        let tables = [
            operator.by_ssh(a, hosts.beside(a), &format!("{question}\n"), self.interrupt)?,
            operator.by_remote(
                b,
                hosts.beside(b),
                &["show", "configuration", "revisions"],
                self.interrupt,
            )?,
        ];
        let mut text = String::new();
        let mut held = true;
        for (side, table) in Side::BOTH.into_iter().zip(tables) {
            let gateway = side.gateway().name();
            let known = table.lines().filter(|line| line.contains(OPERATOR)).count();
            let changes = self.report.changes.iter();
            held &= known == changes.filter(|change| change.gateway == gateway).count();
            for line in table.lines().skip(1) {
                let line = format!("\n{gateway}  {}", line.trim_end());
                text.push_str(&line);
            }
        }
        let held = self.report.check(
            "each change of a configuration is a revision of the operator's",
            held,
        );
        self.progress.end_as(held, &text);
        Ok(())
    }

    fn start(&mut self, what: &str, path: Path) -> Result<(), DemoError> {
        self.progress.step(what);
        let begin = Instant::now();
        // A gateway that was killed took its devices with it.
        self.laboratory.build()?;
        self.laboratory
            .start_gateways(path, &self.arguments.run.options(), self.interrupt)?;
        let ready = begin.elapsed().as_millis();
        let (held, text) = self.drivers()?;
        self.progress
            .end_as(held, &format!("ready in {ready} ms{text}"));
        Ok(())
    }

    /// By what the frames of each interface come and go, a line a gateway, and whether that is what was asked for.
    fn drivers(&mut self) -> Result<(bool, String), DemoError> {
        let mut text = String::new();
        for side in Side::BOTH {
            let gateway = side.gateway().name();
            let drivers = Control::new(&self.laboratory.root(side))?.drivers()?;
            let list: Vec<String> = drivers
                .iter()
                .map(|(interface, driver)| format!("{interface} {driver}"))
                .collect();
            let line = format!("\n{gateway}  {}", list.join(", "));
            text.push_str(&line);
            self.report.drivers.insert(gateway, drivers);
        }
        let Some(wanted) = &self.arguments.run.driver else {
            return Ok((true, text));
        };
        let held = self
            .report
            .drivers
            .values()
            .flat_map(BTreeMap::values)
            .all(|driver| driver.split(' ').next() == Some(wanted));
        let what = format!("every interface uses {wanted}");
        Ok((self.report.check(what, held), text))
    }

    fn throughput(
        &mut self,
        hosts: &Hosts,
        transport: Transport,
        key: &'static str,
        what: &str,
    ) -> Result<f64, DemoError> {
        self.progress.step(what);
        if !hosts.wait_open(MARKER, OPENING, self.interrupt)? {
            return Err(DemoError::Closed("before a measurement"));
        }
        let both = hosts.throughput(transport, self.arguments.seconds, self.interrupt)?;
        let (name, kept) = match transport {
            Transport::Tcp => ("TCP", &mut self.report.tcp),
            Transport::Udp => ("UDP", &mut self.report.udp),
        };
        kept.insert(key, both);
        let passes = format!("{name} passes both ways ({key})");
        self.report.check(passes, both.slower() > 0.0);
        let rates = format!(
            "{:.0} Mbit/s forth, {:.0} Mbit/s back",
            both.forth_mbit, both.back_mbit
        );
        let text = match transport {
            Transport::Tcp => format!("{rates}, {} segments sent again", both.retransmits),
            Transport::Udp => rates,
        };
        self.progress.done(&text);
        Ok(both.slower())
    }

    fn dataplane_times(&self) -> [Option<ProcessorTimes>; 2] {
        Side::BOTH.map(|side| self.laboratory.dataplane_times(side))
    }

    /// Where the processor time between two looks went; the clocks of the nodes are those of the same time.
    fn shares(&mut self, before: [Option<ProcessorTimes>; 2], after: [Option<ProcessorTimes>; 2]) {
        self.progress
            .step("processor time of the dataplanes, while TCP ran through the tunnel");
        let mut text = String::new();
        for ((side, before), after) in Side::BOTH.into_iter().zip(before).zip(after) {
            let gateway = side.gateway().name();
            let nodes = self.report.nodes.iter();
            let nodes: Vec<_> = nodes
                .filter(|node| node.gateway == gateway)
                .map(|node| node.cost.clone())
                .collect();
            let times = before.zip(after).map(|(before, after)| ProcessorTimes {
                user: after.user.saturating_sub(before.user),
                system: after.system.saturating_sub(before.system),
            });
            let clocks = culvert_dataplane::clock::clocks_per_second();
            let Some(shares) = times.and_then(|times| Shares::of(times, &nodes, clocks)) else {
                continue;
            };
            let line = format!(
                "\n{gateway}  {:.1} s: kernel {:.0} %, esp nodes with the cipher {:.0} %, other nodes {:.0} %, drivers and polling {:.0} %",
                shares.seconds,
                shares.kernel_percent,
                shares.esp_percent,
                shares.graph_percent,
                shares.drivers_percent
            );
            text.push_str(&line);
            self.report.shares.insert(gateway, shares);
        }
        let held = self.report.check(
            "the dataplanes' processor time is known",
            self.report.shares.len() == Side::BOTH.len(),
        );
        self.progress.end_as(held, &text);
    }

    /// The tunnel beside the clear path of the same run.
    fn ratios(&mut self) {
        self.progress
            .step("the tunnel as a share of the clear path");
        let report = &mut self.report;
        let ratio = |tunnel: Option<f64>, clear: Option<f64>| {
            tunnel
                .zip(clear)
                .map(|(tunnel, clear)| (tunnel / clear * 1000.0).round() / 1000.0)
        };
        report.tcp_ratio_to_clear = ratio(report.tcp_tunnel_mbit, report.tcp_clear_mbit);
        report.udp_ratio_to_clear = ratio(report.udp_tunnel_mbit, report.udp_clear_mbit);
        let say =
            |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |it| format!("{it:.2}"));
        let text = format!(
            "TCP {}, UDP {}; the slower way of each",
            say(report.tcp_ratio_to_clear),
            say(report.udp_ratio_to_clear)
        );
        self.progress.done(&text);
    }

    fn negotiate(&mut self, hosts: &Hosts, control: &Control) -> Result<(), DemoError> {
        self.progress.step("IKEv2");
        let knock = hosts.knock(MARKER)?;
        // Everything that knocks now is dropped: there is no SA.
        if knock
            .wait(Duration::from_millis(200), self.interrupt)?
            .is_some()
        {
            return Err(DemoError::Closed("it reaches it without an SA"));
        }
        let begin = Instant::now();
        control.initiate(CHILD, NEGOTIATION)?;
        let Some(answered) = knock.wait(NEGOTIATION, self.interrupt)? else {
            return Err(DemoError::Closed(
                "the SAs are there, and no packet is answered",
            ));
        };
        let up = answered.saturating_duration_since(begin).as_secs_f64() * 1e3;
        self.report.ike_up_ms = Some(up);
        let reply = control.ike()?;
        let (ike, child) = installed_child(&reply, CHILD).ok_or(DemoError::NoChild)?;
        let facts = IkeFacts {
            local: format!("{} ({})", ike.local_id, ike.local_address),
            remote: format!("{} ({})", ike.remote_id, ike.remote_address),
            ike_proposal: ike.proposal.clone(),
            esp_proposal: child.proposal.clone(),
            spi_in: format!("{:08x}", child.spi_in),
            spi_out: format!("{:08x}", child.spi_out),
        };
        self.progress.done(&format!(
            "up in {up:.0} ms\n{} to {}\nIKE {}, ESP {}\nSPI in {}, out {}",
            facts.local,
            facts.remote,
            facts.ike_proposal,
            facts.esp_proposal,
            facts.spi_in,
            facts.spi_out
        ));
        self.report.ike = Some(facts);
        Ok(())
    }

    /// Answers how many packets were sent inside.
    fn ping(&mut self, hosts: &Hosts) -> Result<u64, DemoError> {
        self.progress.step("ping, host-a to host-b");
        let [v4, v6] = hosts.ping(MARKER, self.interrupt)?;
        let loss = f64::midpoint(v4.loss_percent(), v6.loss_percent());
        let answers = f64::from(v4.received + v6.received).max(1.0);
        let average = (v4.average_ms * f64::from(v4.received)
            + v6.average_ms * f64::from(v6.received))
            / answers;
        self.report.ping_loss_percent = Some(loss);
        self.report.ping_avg_ms = Some(average);
        let held = self.report.check(
            "no ping is lost",
            v4.received == v4.sent && v6.received == v6.sent,
        );
        let line = |report: &culvert_netlab::ping::PingReport| {
            format!(
                "{} of {} lost, {:.3} ms on average, {:.3} ms at most",
                report.sent - report.received.min(report.sent),
                report.sent,
                report.average_ms,
                report.maximum_ms
            )
        };
        self.progress
            .end_as(held, &format!("{}\nIPv6: {}", line(&v4), line(&v6)));
        Ok(u64::from(v4.sent + v4.received + v6.sent + v6.received))
    }

    fn idle(&mut self) -> Result<(), DemoError> {
        self.progress.step("idle gateways");
        let before = self.laboratory.processor_time()?;
        self.interrupt.sleep(IDLE)?;
        let used = self.laboratory.processor_time()?.saturating_sub(before);
        let percent = 100.0 * used.as_secs_f64() / IDLE.as_secs_f64();
        self.report.idle_percent = Some(percent);
        self.progress
            .done(&format!("{percent:.1} % of one core, both together"));
        Ok(())
    }

    fn node_costs(&mut self, controls: &[Control; 2]) -> Result<(), DemoError> {
        self.progress
            .step("clocks a packet by node, while TCP ran through the tunnel");
        let mut text = String::new();
        for (side, control) in Side::BOTH.into_iter().zip(controls) {
            let gateway = side.gateway().name();
            for cost in control.take_node_costs()? {
                let line = format!(
                    "\n{gateway}  {:<24} {:>10} packets {:>6.1} a vector {:>8.0} clocks",
                    cost.node, cost.packets, cost.packets_per_vector, cost.clocks_per_packet
                );
                text.push_str(&line);
                self.report.nodes.push(GatewayNode { gateway, cost });
            }
        }
        let held = self.report.check(
            "the dataplanes count packets and clocks by node",
            !self.report.nodes.is_empty(),
        );
        self.progress.end_as(held, &text);
        Ok(())
    }

    fn drops(&mut self, controls: &[Control; 2]) -> Result<(), DemoError> {
        self.progress.step("packets that ended in a gateway");
        let mut text = String::new();
        for (side, control) in Side::BOTH.into_iter().zip(controls) {
            let gateway = side.gateway().name();
            let drops = control.drops()?;
            let list: Vec<String> = drops
                .iter()
                .map(|(reason, packets)| format!("{packets} {reason}"))
                .collect();
            text.push('\n');
            text.push_str(gateway);
            text.push_str("  ");
            text.push_str(&list.join(", "));
            self.report.drops.insert(gateway, drops);
        }
        self.progress.done(&text);
        Ok(())
    }

    fn prove(&mut self, seen: &CaptureReport, inner: u64, file: &std::path::Path) {
        self.progress.step("the untrusted side");
        for (class, frames) in &seen.frames {
            self.report
                .wan
                .insert(format!("{class:?}").to_lowercase(), *frames);
        }
        // What is captured comes from gateways: a router's advertisement among it is none of the router's.
        let clear = seen.count(WanClass::Cleartext) + seen.count(WanClass::Router);
        self.report.wan_cleartext_packets = Some(clear);
        let esp = seen.count(WanClass::Esp);
        let held = [
            self.report.check(
                "nothing but ARP, ND, IKE and ESP crosses the untrusted side",
                clear == 0,
            ),
            self.report.check(
                "as many ESP packets cross as packets were sent inside",
                esp >= inner,
            ),
            self.report
                .check("the capture missed nothing", seen.lost == 0),
        ];
        let classes: Vec<String> = self
            .report
            .wan
            .iter()
            .map(|(class, frames)| format!("{frames} {class}"))
            .collect();
        let mut text = format!(
            "{clear} packets in the clear; {}\n{inner} packets were sent inside; {} frames in {}",
            classes.join(", "),
            seen.total(),
            file.display()
        );
        for example in &seen.examples {
            let start: Vec<String> = example
                .iter()
                .take(64)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            text.push_str("\nin the clear: ");
            text.push_str(&start.concat());
        }
        self.progress.end_as(held == [true; 3], &text);
    }
}
