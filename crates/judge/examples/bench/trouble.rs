//! Good releases in trouble that both arms share, or that the router makes (note, §4).

use cutover_judge::sim::{Detector, Random, Stream};
use cutover_judge::{Class, Clusters, Judge, Settings};
use serde_json::json;

use crate::rivals::{self, Known, NAMES};
use crate::{Account, Bench, MARGINS, chance, history, object, percent, rounded, watches};

fn judge(random: &mut Random, share_bp: u16) -> Judge {
    let mut judge =
        Judge::new(Settings::new(MARGINS.to_vec()), history(random, 0.001, true)).expect("good settings");
    judge.set_share(share_bp);
    judge
}

/// Counts good releases that are taken back; the ratio is the worst share by the 1 % that are allowed.
pub(crate) fn run(bench: &mut Bench) -> Account {
    let n = bench.times(4_000);
    println!(
        "\ngood releases taken back in trouble, 30 min, stable at 0.1 %; {n} watches, worst of 10 and 100 requests/s, shares 1, 10, 50 %"
    );
    println!(
        "{:>44} {:>8} {:>10} {}",
        "",
        "judge",
        "SPRT known",
        NAMES.map(|name| format!("{name:>12}")).join(" ")
    );
    let outage = |second: u32| if second % 300 < 5 { [0.3; 2] } else { [0.001; 2] };
    let drift = |second: u32| [0.001 * 10f64.powf(f64::from(second) / 1_800.0); 2];
    let mut worst: f64 = 0.0;
    let mut others = vec![0.0f64; 1 + NAMES.len()];
    for (name, rates) in [
        ("outage of 5 s each 5 min, a third fails", &outage as &(dyn Fn(u32) -> [f64; 2] + Sync)),
        ("error rate grows tenfold", &drift),
    ] {
        let mut row = vec![0usize; 2 + NAMES.len()];
        for per_s in [10.0, 100.0] {
            for share_bp in [100, 1_000, 5_000] {
                let found = watches(n, |seed| shared(seed, per_s, share_bp, rates));
                row.iter_mut().enumerate().for_each(|(at, most)| {
                    *most = (*most).max(found.iter().filter(|watch| watch[at]).count())
                });
            }
        }
        print_row(name, &row, n);
        worst = worst.max(goal(bench, name, row[0], n));
        others
            .iter_mut()
            .zip(&row[1..])
            .for_each(|(most, failed)| *most = most.max(*failed as f64 / n as f64));
    }
    for (name, clustered, retries) in [
        ("sticky clients, ten retries, by clients", true, 10),
        ("the same by requests, which is wrong", false, 10),
    ] {
        let failed = watches(n / 4, |seed| sticky(seed, clustered, retries))
            .into_iter()
            .filter(|failed| *failed)
            .count();
        print_row(name, &[failed], n / 4);
        if clustered {
            worst = worst.max(goal(bench, name, failed, n / 4));
        }
    }
    let failed = watches(n, retried).into_iter().filter(|failed| *failed).count();
    print_row("ten retries of each failure, drawn anew", &[failed], n);
    worst = worst.max(goal(bench, "retries", failed, n));
    for real in [0.05, 0.09, 0.12, 0.2] {
        let name = format!("10 % was meant, {:.0} % is real", real * 100.0);
        let failed = watches(n, |seed| split(seed, real)).into_iter().filter(|failed| *failed).count();
        print_row(&name, &[failed], n);
        worst = worst.max(goal(bench, &name, failed, n));
    }
    let failed = (worst * n as f64).round() as usize;
    bench.interval("a case as the judge's worst", chance::share(failed, n as usize), " %");
    Account {
        ours: json!({ "worst": rounded(worst) }),
        peers: object(["sprt_known"].into_iter().chain(NAMES).zip(others)),
        ratio: worst / 0.01,
    }
}

fn goal(bench: &mut Bench, name: &str, failed: usize, n: u64) -> f64 {
    bench.goal(
        &format!("false rollback ≤ 1 %, {name}: {}", percent(failed, n as usize)),
        bench.one_percent(failed, n as usize),
    );
    failed as f64 / n as f64
}

fn print_row(name: &str, row: &[usize], n: u64) {
    let cells: Vec<String> = row.iter().map(|failed| percent(*failed, n as usize)).collect();
    println!(
        "{name:>44} {:>8} {:>10} {}",
        cells[0],
        cells.get(1).map_or("", |cell| cell),
        cells.iter().skip(2).map(|cell| format!("{cell:>12}")).collect::<Vec<_>>().join(" ")
    );
}

fn shared(seed: u64, per_s: f64, share_bp: u16, rates: &(dyn Fn(u32) -> [f64; 2] + Sync)) -> Vec<bool> {
    let mut random = Random::new(seed);
    let mut judge = judge(&mut random, share_bp);
    let mut known = Known::new(0.001, 0.011);
    let mut rivals = rivals::all();
    let mut detectors: Vec<&mut dyn Detector> = vec![&mut judge, &mut known];
    detectors.extend(rivals::each(&mut rivals));
    let share = f64::from(share_bp) / 10_000.0;
    let found = Stream { per_s, share, seconds: 1_800, rates }.run(&mut random, &mut detectors);
    found.iter().map(Option::is_some).collect()
}

/// Clients that stay with their arm: 20 requests/s from 100 clients that are others each minute; of two in a hundred every
/// request fails, and is sent ten times.
fn sticky(seed: u64, clustered: bool, retries: u32) -> bool {
    let mut random = Random::new(seed);
    let mut judge = judge(&mut random, 1_000);
    let mut clusters = Clusters::new(65_536);
    for request in 0..36_000u64 {
        let client = request / 1_200 * 100 + (random.unit() * 100.0) as u64;
        let mut own = Random::new(seed << 32 | client);
        let (arm, broken) = (own.arm(0.1), own.unit() < 0.02);
        for _ in 0..if broken { retries } else { 1 } {
            if !clustered {
                judge.assigned(arm, 1);
                judge.score_many(arm, if broken { Class::ERROR } else { Class::UNTIMED }, 1);
            } else if let Some(block) = clusters.score(client, arm, broken, request * 50) {
                judge.block(block);
            }
        }
        if judge.due() {
            judge.next_epoch();
        }
        if judge.failure().is_some() {
            return true;
        }
    }
    false
}

/// Requests whose failures come in tens, each of them drawn anew.
fn retried(seed: u64) -> bool {
    let mut random = Random::new(seed);
    let mut judge = judge(&mut random, 1_000);
    for _ in 0..36_000 {
        let broken = random.unit() < 0.001;
        for _ in 0..if broken { 10 } else { 1 } {
            let arm = random.arm(0.1);
            judge.assigned(arm, 1);
            judge.score_many(arm, if broken { Class::ERROR } else { Class::UNTIMED }, 1);
        }
        if judge.due() {
            judge.next_epoch();
        }
    }
    judge.failure().is_some()
}

/// A share that is not the one that was meant.
fn split(seed: u64, real: f64) -> bool {
    let mut random = Random::new(seed);
    let mut judge = judge(&mut random, 1_000);
    Stream { per_s: 20.0, share: real, seconds: 1_800, rates: &|_| [0.001; 2] }
        .run(&mut random, &mut [&mut judge])[0]
        .is_some()
}
