//! Runs a whole bus under faults and judges what its clients saw. `scripts/nemesis` starts it.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arqon_harness::nemesis::{Options, run, show};
use clap::Parser;

/// Violations that are shown; all are in the folder.
const SHOWN: usize = 3;

/// Kills, freezes, cuts and delays what a whole bus is made of, and judges what its clients saw:
/// isolation, order, no loss that is not declared, and presence that is true once all is quiet.
#[derive(Parser, Debug)]
#[command(name = "nemesis")]
struct Cli {
    /// Draws the faults; by chance where it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Minutes of faults.
    #[arg(long, default_value_t = 10.0, value_name = "N")]
    minutes: f64,
    /// What came of it as JSON, on standard output.
    #[arg(long)]
    json: bool,
    /// Keep the folder of logs and the history where nothing was found, too.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let seconds = cli.minutes * 60.0;
    if !(1.0..=86_400.0).contains(&seconds) {
        eprintln!("nemesis: --minutes {} is too few or too many", cli.minutes);
        eprintln!("hint: from 0.02 to 1440");
        return ExitCode::from(2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("nemesis: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(tell(&cli, Duration::from_secs_f64(seconds)))
}

async fn tell(cli: &Cli, time: Duration) -> ExitCode {
    let seed = cli.seed.unwrap_or_else(by_chance);
    let again = format!("scripts/nemesis --seed {seed} --minutes {}", cli.minutes);
    eprintln!("nemesis: seed {seed}");
    let outcome = run(Options {
        seed,
        time,
        keep: cli.keep,
    })
    .await;
    if cli.json {
        println!("{}", show::json(&outcome, seed));
    } else {
        print!("{}", show::table(&outcome));
    }
    let violations = &outcome.judgement.violations;
    for violation in violations.iter().take(SHOWN) {
        eprint!("nemesis: {}", show::excerpt(&outcome, violation));
    }
    for problem in &outcome.problems {
        eprintln!("nemesis: {problem}");
    }
    if let Some(folder) = &outcome.folder {
        eprintln!("nemesis: logs and history are in {}", folder.display());
    }
    eprintln!("nemesis: again: {again}");
    if outcome.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn by_chance() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    // Short enough to be typed again.
    now.map_or(0, |now| u64::from(now.subsec_nanos()) % 1_000_000)
}
