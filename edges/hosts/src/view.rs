//! What several proxies do with a service, as one view.

use cutover_core::{Fault, RevisionId, Weight};
use cutover_ports::{FailingTarget, RouterView, Target, TrackView};

use crate::hosts::Member;

/// Puts the views together; with each is said why it is an old one, if it is. Where hosts differ, the one that gives the
/// candidate least is shown: nobody is to raise it anywhere because of what another host does.
pub(crate) fn of_all(
    views: Vec<(&Member, RouterView, Option<String>)>,
    candidate: Option<&RevisionId>,
) -> Result<RouterView, Fault> {
    let mut all = RouterView::default();
    let weight = |view: &RouterView, revision: &RevisionId| {
        let track = view.tracks.iter().find(|track| &track.revision == revision);
        track.map_or(Weight::ZERO, |track| track.weight)
    };
    let there = || views.iter().filter(|(_, view, _)| !view.tracks.is_empty());
    let least = candidate.and_then(|candidate| there().min_by_key(|(_, view, _)| weight(view, candidate)));
    let weights = |revision: &RevisionId| match least {
        Some((_, view, _)) => weight(view, revision),
        None => there().map(|(_, view, _)| weight(view, revision)).min().unwrap_or(Weight::ZERO),
    };
    for (member, view, silent) in &views {
        all.generation += view.generation;
        all.requests += view.requests;
        all.failed += view.failed;
        all.failed_by_router += view.failed_by_router;
        all.notes.extend(view.notes.iter().map(|note| format!("host {}: {note}", member.name)));
        all.notes.extend(
            silent
                .iter()
                .map(|why| format!("host {} does not answer, shown as seen last: {why}", member.name)),
        );
        for track in &view.tracks {
            let differs = weight(view, &track.revision) != weights(&track.revision);
            if differs {
                all.notes.push(format!(
                    "host {} gives {} {} of its requests",
                    member.name, track.revision, track.weight
                ));
            }
            join(&mut all.tracks, translated(member, track)?);
        }
    }
    for track in &mut all.tracks {
        track.weight = weights(&track.revision);
    }
    Ok(all)
}

fn translated(member: &Member, track: &TrackView) -> Result<TrackView, Fault> {
    let mut track = track.clone();
    for target in &mut track.targets {
        let address = member.reach.here(target.address)?;
        *target = Target { instance: member.named(&target.instance), address, ..target.clone() };
    }
    for failing in &mut track.failing {
        *failing = FailingTarget { instance: member.named(&failing.instance), ..failing.clone() };
    }
    Ok(track)
}

fn join(tracks: &mut Vec<TrackView>, more: TrackView) {
    match tracks.iter_mut().find(|track| track.revision == more.revision) {
        Some(track) => {
            track.targets.extend(more.targets);
            track.failing.extend(more.failing);
            track.in_flight += more.in_flight;
            track.requests += more.requests;
            track.failed += more.failed;
        }
        None => tracks.push(more),
    }
}
