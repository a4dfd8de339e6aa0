//! A whole canary release, judged: 5 %, 25 %, 50 %, at 100 simulated requests per second.
//!
//!     cargo run -p cutover-judge --example canary           a candidate as good as stable
//!     cargo run -p cutover-judge --example canary -- 3      one that fails 3 percentage points more often

use cutover_judge::sim::Random;
use cutover_judge::{Arm, History, Judge, Outcome, Question, Settings, Verdict, ladder, plan, replay};

const WEIGHTS: [u16; 3] = [500, 2_500, 5_000];
const PER_S: u64 = 100;

fn main() -> Result<(), String> {
    let worse = std::env::args().nth(1).and_then(|points| points.parse::<f64>().ok()).unwrap_or(0.0) / 100.0;
    let history = History { requests: 10_000, errors: 10, ..History::default() };
    plan(&WEIGHTS, true, &history, PER_S * 3600).iter().for_each(|step| println!("{step}"));

    let margins = ladder(&WEIGHTS, &history);
    let settings = Settings::new(margins.clone());
    let mut judge = Judge::new(settings.clone(), history)?;
    let (mut random, mut journal, mut now_ms) = (Random::new(1), Vec::new(), 0);
    for (share_bp, margin_ppb) in WEIGHTS.into_iter().zip(margins) {
        journal.extend(judge.set_share(share_bp));
        let last = share_bp == WEIGHTS[WEIGHTS.len() - 1];
        let begun = now_ms;
        let verdict = loop {
            now_ms += 1000 / PER_S;
            let arm = random.arm(f64::from(share_bp) / 10_000.0);
            let ticket = judge.assign(arm);
            let fails = random.unit() < 0.001 + if arm == Arm::Candidate { worse } else { 0.0 };
            // Lognormal, with a median of 100 ms.
            let latency_us = (100_000.0 * (random.normal() / 2.0).exp()) as u64;
            judge.score(ticket, if fails { Outcome::Error } else { Outcome::Ok { latency_us } });
            if judge.due() {
                journal.extend(judge.next_epoch());
            }
            let candidate_per_hour = PER_S * 3600 * u64::from(share_bp) / 10_000;
            let verdict = judge.verdict(&Question {
                margin_ppb,
                latency: last,
                step_ms: now_ms - begun,
                floor_ms: 2_000,
                candidate_per_hour,
            });
            match verdict {
                Verdict::Inconclusive(_) if now_ms - begun < 600_000 => {}
                verdict => break verdict,
            }
        };
        println!("{} % after {} s: {verdict}", f64::from(share_bp) / 100.0, (now_ms - begun) / 1000);
        if matches!(verdict, Verdict::Fail(_)) {
            break;
        }
    }
    journal.extend(judge.close());
    let replayed = replay(&settings, &journal, judge.failure());
    println!("judged again from {} epochs: {} differences", journal.len(), replayed.differences.len());
    Ok(())
}
