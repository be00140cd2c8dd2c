//! The command `gate-bench`: measures the gate beside what it stands in for, on this machine, in one run.
//!
//! It starts every server itself on free ports of the loopback address and ends them again, whatever happens to it.
//! It is no test: figures and bars are printed, and only a run that could not be made is a failure.
#![forbid(unsafe_code)]

mod article;
mod backend;
mod bars;
mod build;
mod chunks;
mod clients;
mod complaint;
mod fleet;
mod folder;
mod interrupt;
mod options;
mod own_time;
mod peer;
mod probe;
mod processes;
mod seats;
mod started;
mod startup;
mod stats;
mod supervise;
mod table;
mod tools;
mod upstream;
mod wrk;

use std::process::ExitCode;

use chunks::line::Shape;
use complaint::Complaint;
use folder::Folder;
use options::{Command, Options, Part, USAGE};
use peer::{Kind, Peers};
use tools::Tools;
use upstream::Upstream;
use wrk::Request;

/// Bad usage, as `sysexits.h` numbers it.
const EX_USAGE: u8 = 64;

fn main() -> ExitCode {
    match options::parse(std::env::args().skip(1)).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("gate-bench: {why}");
            if matches!(why, Complaint::Usage(_)) { ExitCode::from(EX_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn run(command: Command) -> Result<(), Complaint> {
    match command {
        Command::Help => print!("{USAGE}"),
        Command::Peers(options) => tell_peers(&options),
        Command::Compare(options) => {
            interrupt::watch()?;
            compare(&options)?;
        }
        Command::Supervise(options) => {
            interrupt::watch()?;
            supervise::run(&options)?;
        }
        Command::Fleet(options) => {
            interrupt::watch()?;
            fleet::run(&options)?;
        }
        Command::Clients(options) => {
            interrupt::watch()?;
            clients::run(&options)?;
        }
        Command::ChunkSource { port } => chunks::source::serve(port)?,
        Command::ChunkSink { port, waves, shape } => println!("{}", chunks::sink::read_waves(port, waves, shape)?),
    }
    Ok(())
}

fn tell_peers(options: &Options) {
    let unbuilt = "cargo build --release makes it when `compare` starts";
    let peers = Peers::find(options, options.gate.clone().ok_or_else(|| unbuilt.to_owned()));
    match Tools::find() {
        Ok(tools) => println!("tools: found; {}", tools.seats),
        Err(why) => println!("tools: {why}"),
    }
    for kind in Kind::ALL {
        match peers.place(kind) {
            Ok(place) => println!("{kind}: {place}"),
            Err(why) if why == unbuilt => println!("{kind}: {why}"),
            Err(why) => println!("{kind}: skipped: {why}"),
        }
    }
}

fn compare(options: &Options) -> Result<(), Complaint> {
    let tools = Tools::find()?;
    let folder = Folder::create()?;
    let gate = if options.wants(Kind::Gate) {
        Ok(build::named_or_built(options.gate.as_deref(), &folder)?)
    } else {
        Err("not asked for".to_owned())
    };
    let peers = Peers::find(options, gate);
    tell_setting(options, &tools);
    for kind in Kind::ALL {
        if let Err(why) = peers.place(kind) {
            println!("- {kind} skipped: {why}");
        }
    }
    println!();
    let upstream = Upstream::start(&tools, &folder, 1)?;
    let bench = Bench { options, tools: &tools, folder: &folder, peers: &peers };
    let mut findings = bars::Findings::default();
    if options.does(Part::Start) && peers.place(Kind::Gate).is_ok() {
        findings.start = Some(startup::measure(&bench, &upstream.ports)?);
    }
    if options.does(Part::Article) {
        findings.article = article::measure(&bench, &upstream, |_| Request::of_article())?;
        println!("{}", article::table(&findings.article));
    }
    drop(upstream);
    if options.does(Part::Chunks) {
        findings.chunks = chunks::measure(&bench, Shape::Lines)?;
        println!("{}", chunks::table(Shape::Lines, &findings.chunks));
    }
    println!("{}", bars::table(&findings));
    Ok(())
}

/// What every part of a comparison needs.
struct Bench<'a> {
    options: &'a Options,
    tools: &'a Tools,
    folder: &'a Folder,
    peers: &'a Peers,
}

fn tell_setting(options: &Options, tools: &Tools) {
    let Options { rounds, seconds, connections, .. } = options;
    println!("# gate-bench\n");
    println!("- {}", processes::machine());
    println!("- {}; {}", tools.nginx_version(), tools.seats);
    println!("- medians of {rounds} interleaved rounds, {seconds} s each, wrk -t1 -c{connections}; loopback only");
    println!("- one worker each; limiter and access log on (fastapi: its access log off, as it comes)");
    println!("- CPU is that of all processes of a server, user + system, from /proc; a worker's RSS is VmRSS");
    println!("- others' CPU went to processes outside the measurement: distrust rounds where it is not near 0");
}
