//! One answer out of several.

use cutover_core::{After, Blame, Fault};

/// Says on which host a call failed.
pub(crate) fn on(host: &str, fault: Fault) -> Fault {
    Fault { what: format!("{} (host {host})", fault.what), ..fault }
}

/// Returns what all said, or the fault of those that failed. What failed on one and was done on another is unknown as a
/// whole, so that the way back begins at it, on all hosts.
pub(crate) fn acted<T>(names: &[&str], answers: Vec<Result<T, Fault>>) -> Result<Vec<T>, Fault> {
    let (mut fine, mut done, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    for (name, answer) in names.iter().zip(answers) {
        match answer {
            Ok(answer) => {
                fine.push(answer);
                done.push(*name);
            }
            Err(fault) => faults.push(fault),
        }
    }
    let Some(mut fault) = worst(faults) else { return Ok(fine) };
    if !done.is_empty() && fault.after != After::Fenced {
        fault.what = format!("{}; done on {}", fault.what, done.join(", "));
        fault.after = After::Unknown;
    }
    Err(fault)
}

/// Returns what all said, or the fault of those that failed. The call changes nothing.
pub(crate) fn asked<T>(answers: Vec<Result<T, Fault>>) -> Result<Vec<T>, Fault> {
    let (mut fine, mut faults) = (Vec::new(), Vec::new());
    for answer in answers {
        match answer {
            Ok(answer) => fine.push(answer),
            Err(fault) => faults.push(fault),
        }
    }
    worst(faults).map_or(Ok(fine), Err)
}

/// Returns the fault that says most, with the words of the others. Whether something may have happened on any host decides
/// what is known of all.
fn worst(mut faults: Vec<Fault>) -> Option<Fault> {
    let rank = |fault: &Fault| match (fault.after, fault.blame) {
        (After::Fenced, _) => 0,
        (_, Blame::Candidate) => 1,
        (After::Final, _) => 2,
        _ => 3,
    };
    let first = (0..faults.len()).min_by_key(|index| rank(&faults[*index]))?;
    let mut fault = faults.remove(first);
    for other in &faults {
        fault.what = format!("{}; {}", fault.what, other.what);
        if fault.after != After::Fenced {
            fault.after = match (fault.after, other.after) {
                (After::Unknown, _) | (_, After::Unknown) => After::Unknown,
                (After::Retry, _) | (_, After::Retry) => After::Retry,
                _ => fault.after,
            };
        }
    }
    Some(fault)
}
