//! What happens to containers: adopted, foreign, killed, stopped by hand, and the engine restarted under them.

use cutover_core::{After, Blame, ProcessCounts};
use cutover_docker::DockerPlatform;
use cutover_ports::{InstanceState, Platform, Secret};

use crate::suite::harness::{World, docker, engines_wanted, fence, run, seen, shop, store, up, wait};

/// Runs `count` instances of what serves.
async fn serving(
    world: &World,
    platform: &DockerPlatform,
    more: &str,
    count: u32,
) -> cutover_core::RevisionId {
    let spec = world.serving(more);
    let revision = store(platform, &spec).await;
    platform.ensure(fence(), &shop(), &revision, count).await.unwrap();
    revision
}

fn inspect(world: &World, name: &str, format: &str) -> String {
    world.engine.docker(&["inspect", "--format", format, name]).trim().to_string()
}

#[test]
fn a_new_server_adopts_what_runs_and_finishes_what_was_cut_short() {
    if !engines_wanted("a_new_server_adopts_what_runs_and_finishes_what_was_cut_short") {
        return;
    }
    run(async {
        let world = World::new();
        let platform = world.open().await;
        let revision = serving(&world, &platform, "", 2).await;
        let before = up(&platform, &revision, 2).await;
        drop(platform);
        // Removed while no server was there; and one that a crash left made and not started.
        world.engine.docker(&["rm", "--force", &format!("cutover-shop-{revision}-2")]);
        let platform = world.open().await;
        let after = up(&platform, &revision, 2).await;
        assert_eq!((&after[0].id, after[0].pid), (&before[0].id, before[0].pid), "it was not touched");
        assert_ne!(after[1].id, before[1].id, "another container is another instance");
        // The fence lies in the state folder.
        let old = cutover_core::Fence { epoch: 0, sequence: 9 };
        let fault = platform.ensure(old, &shop(), &revision, 1).await.unwrap_err();
        assert_eq!(fault.after, After::Fenced, "{fault}");
        platform.retire(fence(), &shop(), &revision).await.unwrap();
        platform.shutdown().await;
        assert_eq!(world.engine.docker(&["ps", "--all", "--quiet"]), "");
    });
}

#[test]
fn foreign_containers_are_never_touched() {
    if !engines_wanted("foreign_containers_are_never_touched") {
        return;
    }
    run(async {
        let world = World::new();
        let platform = world.open().await;
        let revision = store(&platform, &world.serving("")).await;
        let name = format!("cutover-shop-{revision}-1");
        let stranger =
            world.engine.docker(&["run", "--detach", "--name", &name, "busybox", "sleep", "100000"]);
        let early = platform.preflight(&world.serving(""), &revision).await.unwrap_err();
        let late = platform.ensure(fence(), &shop(), &revision, 1).await.unwrap_err();
        for fault in [early, late] {
            assert_eq!((fault.blame, fault.after), (Blame::Configuration, After::Final));
            assert!(fault.what.contains(&name) && fault.hint.contains("docker rename"), "{fault:?}");
        }
        // What another state folder made is as foreign, though it is of the same service.
        let other = world.open_in(&world.state().with_file_name("other")).await;
        let theirs = serving(&world, &other, "", 1).await;
        up(&other, &theirs, 1).await;
        assert!(seen(&platform, &theirs).await.is_none());
        platform.retire(fence(), &shop(), &theirs).await.unwrap();
        up(&other, &theirs, 1).await;
        platform.retire(fence(), &shop(), &revision).await.unwrap();
        assert_eq!(inspect(&world, &name, "{{.State.Running}}"), "true");
        assert!(inspect(&world, &name, "{{.Id}}").starts_with(stranger.trim()));
        // Out of the way, all is well.
        world.engine.docker(&["rename", &name, "stranger"]);
        platform.ensure(fence(), &shop(), &revision, 1).await.unwrap();
        let ours = up(&platform, &revision, 1).await;
        // What is run from an image that one of ours was committed to has its labels, and is a stranger all the same.
        world.engine.docker(&["commit", &name, "copy"]);
        world.engine.docker(&["run", "--detach", "--name", "copy", "copy"]);
        let still = up(&platform, &revision, 1).await;
        assert_eq!((&still[0].id, still[0].address), (&ours[0].id, ours[0].address));
        platform.vouch(&shop(), &ours[0].id).await.unwrap();
        platform.retire(fence(), &shop(), &revision).await.unwrap();
        assert_eq!(inspect(&world, "copy", "{{.State.Running}}"), "true");
    });
}

#[test]
fn what_is_stored_is_not_pulled_built_or_pushed_again() {
    if !engines_wanted("what_is_stored_is_not_pulled_built_or_pushed_again") {
        return;
    }
    run(async {
        let world = World::new();
        let platform = world.open().await;
        let spec = world.serving("");
        let revision = store(&platform, &spec).await;
        let names = || world.engine.docker(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]);
        let name = names().lines().find(|name| name.contains(revision.as_str())).unwrap().to_owned();
        let line = platform.build(fence(), &spec, &revision).await.unwrap();
        assert!(line.contains("is stored"), "{line}");
        // Its name keeps it from `docker image prune`, and is given back.
        world.engine.docker(&["image", "rm", &name]);
        platform.build(fence(), &spec, &revision).await.unwrap();
        assert!(names().contains(&name), "{}", names());
    });
}

#[test]
fn what_was_left_half_made_is_finished() {
    if !engines_wanted("what_was_left_half_made_is_finished") {
        return;
    }
    run(async {
        let world = World::new();
        let platform = world.open().await;
        let revision = serving(&world, &platform, "", 1).await;
        let first = up(&platform, &revision, 1).await;
        // The server died between making it and starting it: a stopped one that was wanted looks the same.
        platform.shutdown().await;
        world.engine.docker(&["stop", "--time", "1", &format!("cutover-shop-{revision}-1")]);
        let platform = world.open().await;
        let again = up(&platform, &revision, 1).await;
        assert_eq!((&again[0].id, again[0].address), (&first[0].id, first[0].address));
    });
}

#[test]
fn what_was_made_without_its_second_network_is_made_anew() {
    if !engines_wanted("what_was_made_without_its_second_network_is_made_anew") {
        return;
    }
    run(async {
        let world = World::new();
        for network in ["front", "back"] {
            world.engine.docker(&["network", "create", network]);
        }
        let platform = world.open().await;
        let revision = serving(&world, &platform, "networks: [front, back]", 1).await;
        up(&platform, &revision, 1).await;
        platform.shutdown().await;
        // As if the server had died between making it and joining it to the second: made, never started.
        let name = format!("cutover-shop-{revision}-1");
        let labels = inspect(
            &world,
            &name,
            "{{range $key, $value := .Config.Labels}}--label={{$key}}={{$value}}\n{{end}}",
        );
        let hostname = inspect(&world, &name, "--hostname={{.Config.Hostname}}");
        let image = inspect(&world, &name, "{{.Image}}");
        world.engine.docker(&["rm", "--force", &name]);
        let mut create = vec!["create", "--name", &name, &hostname, "--network", "front"];
        create.extend(labels.lines().filter(|line| !line.is_empty()));
        create.extend([image.as_str(), "sh"]);
        world.engine.docker(&create);
        let platform = world.open().await;
        up(&platform, &revision, 1).await;
        let joined =
            inspect(&world, &name, "{{range $name, $all := .NetworkSettings.Networks}}{{$name}} {{end}}");
        assert_eq!(joined, "back front");
    });
}

#[test]
fn a_container_that_somebody_stops_or_removes_runs_again() {
    if !engines_wanted("a_container_that_somebody_stops_or_removes_runs_again") {
        return;
    }
    run(async {
        let world = World::new();
        let platform = world.open().await;
        let revision = serving(&world, &platform, "", 1).await;
        let name = format!("cutover-shop-{revision}-1");
        let first = up(&platform, &revision, 1).await;
        for command in [&["stop", "--time", "1"][..], &["kill"], &["rm", "--force"]] {
            let before = up(&platform, &revision, 1).await[0].pid;
            let mut arguments = command.to_vec();
            arguments.push(&name);
            world.engine.docker(&arguments);
            wait(&format!("another life after {command:?}"), || async {
                let now = seen(&platform, &revision).await?.instances.first()?.clone();
                (now.state == InstanceState::Running && now.pid != before).then_some(())
            })
            .await;
        }
        let last = up(&platform, &revision, 1).await;
        assert_ne!(last[0].id, first[0].id);
        world.engine.docker(&["pause", &name]);
        let fault = platform.vouch(&shop(), &last[0].id).await.unwrap_err();
        assert!(fault.hint.contains("docker unpause"), "{fault:?}");
        world.engine.docker(&["unpause", &name]);
        up(&platform, &revision, 1).await;
    });
}

#[test]
fn an_ending_is_said_in_words_also_once_it_runs_again() {
    if !engines_wanted("an_ending_is_said_in_words_also_once_it_runs_again") {
        return;
    }
    run(async {
        let world = World::new();
        let platform = world.open().await;
        // Takes more memory than it may, after a while in which it serves.
        let eats = "command: [sh, -c, \"httpd -p $PORT; sleep 1; tail /dev/zero\"], memory: 16Mi";
        let revision = store(&platform, &world.spec(eats)).await;
        platform.ensure(fence(), &shop(), &revision, 1).await.unwrap();
        let ended = wait("the end for its memory", || async {
            let one = seen(&platform, &revision).await?.instances.first()?.clone();
            (one.restarts > 0 && !one.ended.is_empty()).then_some(one.ended)
        })
        .await;
        assert_eq!(ended, "out of memory: it went beyond its limit of 16Mi (platform.docker.memory)");
        platform.retire(fence(), &shop(), &revision).await.unwrap();

        let kills = store(&platform, &world.spec("command: [sh, -c, 'sleep 1; kill -SEGV 1; exit 7']")).await;
        platform.ensure(fence(), &shop(), &kills, 1).await.unwrap();
        let why = wait("the exit", || async {
            let one = seen(&platform, &kills).await?.instances.first()?.clone();
            (one.state != InstanceState::Running).then_some(one.why)
        })
        .await;
        assert_eq!(why, "exit status 7");
        let crashes = wait("a crash loop", || async {
            let one = seen(&platform, &kills).await?.instances.first()?.clone();
            (one.state == InstanceState::CrashLoop).then_some(one.restarts)
        })
        .await;
        assert!(crashes >= 5, "{crashes}");
    });
}

#[test]
fn what_the_image_lacks_is_the_candidates_fault() {
    if !engines_wanted("what_the_image_lacks_is_the_candidates_fault") {
        return;
    }
    run(async {
        let world = World::new();
        let platform = world.open().await;
        for keys in ["command: [nothing-of-that-name]", "command: [sh], user: nobody-of-that-name"] {
            let revision = store(&platform, &world.spec(keys)).await;
            let fault = platform.ensure(fence(), &shop(), &revision, 1).await.unwrap_err();
            assert_eq!((fault.blame, fault.after), (Blame::Candidate, After::Final), "{fault:?}");
            assert!(fault.hint.contains("platform.docker.command"), "{fault:?}");
            platform.retire(fence(), &shop(), &revision).await.unwrap();
        }
        let two = "EXPOSE 80 443";
        world.image("two-ports", &[two]);
        let mut spec = world.serving("");
        docker(&mut spec).image = Some("two-ports".into());
        let revision = platform.identify(&spec).await.unwrap();
        let fault = platform.build(fence(), &spec, &revision).await.unwrap_err();
        assert!(fault.what.contains("80") && fault.hint.contains("platform.docker.port"), "{fault:?}");
        let network = world.serving("networks: [backend]");
        let candidate = platform.identify(&network).await.unwrap();
        let fault = platform.preflight(&network, &candidate).await.unwrap_err();
        assert_eq!(fault.hint, "Make it: docker network create backend");
    });
}

#[test]
fn an_engine_that_is_restarted_has_its_containers_again_where_they_were() {
    if !engines_wanted("an_engine_that_is_restarted_has_its_containers_again_where_they_were") {
        return;
    }
    run(async {
        let mut world = World::new();
        let platform = world.open().await;
        let revision = serving(&world, &platform, "", 2).await;
        let before = up(&platform, &revision, 2).await;
        for kill in [false, true] {
            if kill {
                world.engine.kill()
            } else {
                world.engine.stop()
            }
            let fault = platform.observe(&shop()).await.unwrap_err();
            assert_eq!(fault.after, After::Retry, "{fault:?}");
            assert!(
                fault.what.contains("no engine listens") && fault.hint.contains("systemctl start docker")
            );
            assert_eq!(platform.stamp(&shop()).await, None, "only looking tells");
            world.engine.start_again();
            let after = up(&platform, &revision, 2).await;
            let address = |all: &[cutover_ports::ObservedInstance]| -> Vec<_> {
                all.iter().map(|one| (one.id.clone(), one.address)).collect()
            };
            assert_eq!(address(&after), address(&before), "killed: {kill}");
        }
    });
}

#[test]
fn a_port_that_was_taken_while_the_engine_was_away_is_given_up() {
    if !engines_wanted("a_port_that_was_taken_while_the_engine_was_away_is_given_up") {
        return;
    }
    run(async {
        let mut world = World::new();
        let platform = world.open().await;
        let revision = serving(&world, &platform, "", 1).await;
        let before = up(&platform, &revision, 1).await[0].address;
        world.engine.stop();
        let thief = std::net::TcpListener::bind(before).unwrap();
        world.engine.start_again();
        let after = up(&platform, &revision, 1).await[0].address;
        assert_ne!(after, before);
        drop(thief);
    });
}

#[test]
fn the_images_own_health_check_holds_the_instance_back() {
    if !engines_wanted("the_images_own_health_check_holds_the_instance_back") {
        return;
    }
    run(async {
        let world = World::new();
        let platform = world.open().await;
        let check =
            "HEALTHCHECK --interval=200ms --retries=1 CMD test -e /tmp/well || { echo not well; exit 1; }";
        world.image("checked", &[check]);
        let mut spec = world.serving("");
        docker(&mut spec).image = Some("checked".into());
        let revision = store(&platform, &spec).await;
        platform.ensure(fence(), &shop(), &revision, 1).await.unwrap();
        let id = wait("the container", || async {
            Some(seen(&platform, &revision).await?.instances.first()?.id.clone())
        })
        .await;
        let fault = wait("the check to fail", || async {
            platform.vouch(&shop(), &id).await.err().filter(|fault| fault.what.contains("fails"))
        })
        .await;
        assert!(fault.what.ends_with("the health check of its image fails: not well"), "{fault}");
        // No hint: nothing is at the wrong place, so that the candidate's patience is not cut short.
        assert_eq!((fault.after, fault.hint.as_str()), (After::Retry, ""));
        world.engine.docker(&["exec", &format!("cutover-shop-{revision}-1"), "touch", "/tmp/well"]);
        up(&platform, &revision, 1).await;
    });
}

#[test]
fn one_that_listens_at_the_wrong_place_is_told_so() {
    if !engines_wanted("one_that_listens_at_the_wrong_place_is_told_so") {
        return;
    }
    run(async {
        let world = World::new();
        let platform = world.open().await;
        for (command, said) in [
            ("httpd -f -p 3000", "listens on 3000 in its container instead of 0.0.0.0:8080"),
            ("httpd -f -p 127.0.0.1:$PORT", "listens on 127.0.0.1:8080 in its container"),
            ("sleep 1000", "listens on no port, 8080 was expected"),
        ] {
            let revision = store(&platform, &world.spec(&format!("command: [sh, -c, '{command}']"))).await;
            platform.ensure(fence(), &shop(), &revision, 1).await.unwrap();
            wait(said, || async {
                let id = seen(&platform, &revision).await?.instances.first()?.id.clone();
                let fault = platform.vouch(&shop(), &id).await.err()?;
                (fault.what.contains(said) && fault.hint.is_empty() == said.contains("no port")).then_some(())
            })
            .await;
            platform.retire(fence(), &shop(), &revision).await.unwrap();
        }
    });
}

#[test]
fn limits_secrets_and_settings_reach_the_container_and_nothing_else() {
    if !engines_wanted("limits_secrets_and_settings_reach_the_container_and_nothing_else") {
        return;
    }
    run(async {
        let world = World::new();
        let platform = world.open().await;
        world.engine.docker(&["network", "create", "backend"]);
        world.engine.docker(&["network", "create", "metrics"]);
        let mut spec = world.serving(
            "secrets: [TOKEN], memory: 64Mi, cpu: 0.5, pids: 50, log_size: 1Mi, stop_signal: INT, user: '0:0', port: 9000, \
             volumes: ['data:/data', './:/conf:ro'], networks: [backend, metrics], env: {LOG: debug}",
        );
        spec.secrets.insert("TOKEN".into(), Secret::new("swordfish"));
        let revision = store(&platform, &spec).await;
        platform.ensure(fence(), &shop(), &revision, 1).await.unwrap();
        up(&platform, &revision, 1).await;
        let name = format!("cutover-shop-{revision}-1");
        let see = |format: &str| inspect(&world, &name, format);
        let host = "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}";
        assert_eq!(see(host), "67108864 67108864 500000000 50");
        let log = "{{.HostConfig.LogConfig.Type}} {{json .HostConfig.LogConfig.Config}}";
        assert_eq!(see(log), r#"json-file {"max-file":"2","max-size":"524288"}"#);
        assert_eq!(
            see("{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.SecurityOpt}}"),
            "unless-stopped [no-new-privileges]"
        );
        assert_eq!(see("{{.Config.StopSignal}} {{.Config.StopTimeout}}"), "SIGINT 5");
        assert_eq!(
            see("{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"),
            "backend metrics"
        );
        let inside = world.engine.docker(&["exec", &name, "sh", "-c", "echo $TOKEN $LOG $PORT $CUTOVER_SERVICE $CUTOVER_REVISION; touch /data/x; touch /conf/x 2>/dev/null || echo read-only"]);
        assert_eq!(inside, format!("swordfish debug 9000 shop {revision}\nread-only\n"));
        assert!(!see("{{json .Config.Labels}}").contains("swordfish"));
        // In the state folder it is in the sealed file alone.
        let grep = std::process::Command::new("grep")
            .args(["-rl", "swordfish"])
            .arg(world.state())
            .output()
            .unwrap();
        let files = String::from_utf8(grep.stdout).unwrap();
        assert_eq!(files.lines().count(), 1, "{files}");
        assert!(files.contains(&format!("docker/secrets/{revision}.json")), "{files}");
        // A value alone makes another revision.
        spec.secrets.insert("TOKEN".into(), Secret::new("another"));
        assert_ne!(platform.identify(&spec).await.unwrap(), revision);
        let losses = platform.losses(&spec).await.unwrap().join("\n");
        assert!(losses.contains("beyond 64Mi") && losses.contains("write to data"), "{losses}");
    });
}

#[test]
fn an_instance_that_lives_no_more_is_started_again_when_asked() {
    if !engines_wanted("an_instance_that_lives_no_more_is_started_again_when_asked") {
        return;
    }
    run(async {
        let world = World::new();
        let platform = world.open().await;
        let revision = serving(&world, &platform, "", 1).await;
        let before = up(&platform, &revision, 1).await[0].clone();
        platform.restart(fence(), &shop(), &before.id, "its live check failed").await.unwrap();
        wait("another life", || async {
            let now = seen(&platform, &revision).await?.instances.first()?.clone();
            (now.state == InstanceState::Running && now.pid.is_some() && now.pid != before.pid).then_some(())
        })
        .await;
        let after = up(&platform, &revision, 1).await[0].clone();
        assert_eq!((after.id, after.ended.as_str()), (before.id, "its live check failed"));
    });
}

#[test]
fn a_revision_that_was_thrown_away_before_its_build_is_named_once_more() {
    if !engines_wanted("a_revision_that_was_thrown_away_before_its_build_is_named_once_more") {
        return;
    }
    run(async {
        let world = World::new();
        let platform = world.open().await;
        let mut spec = world.serving("secrets: [TOKEN]");
        spec.secrets.insert("TOKEN".into(), Secret::new("swordfish"));
        let revision = platform.identify(&spec).await.unwrap();
        platform.discard(fence(), &shop(), &revision).await.unwrap();
        platform.build(fence(), &spec, &revision).await.unwrap();
        platform.ensure(fence(), &shop(), &revision, 1).await.unwrap();
        up(&platform, &revision, 1).await;
    });
}

#[test]
fn logs_outlive_their_containers() {
    if !engines_wanted("logs_outlive_their_containers") {
        return;
    }
    run(async {
        let world = World::new();
        let platform = world.open().await;
        let mut spec = world.serving("");
        let worker: cutover_core::file::Process = serde_json::from_value(
            serde_json::json!({"command": ["sh", "-c", "echo works; trap 'exit 0' TERM; sleep 100000 & wait"]}),
        )
        .unwrap();
        spec.processes.insert("worker".into(), worker);
        let revision = store(&platform, &spec).await;
        platform.ensure(fence(), &shop(), &revision, 1).await.unwrap();
        let run = ProcessCounts::from([("worker".into(), 1)]);
        platform.ensure_processes(fence(), &shop(), &revision, &run).await.unwrap();
        up(&platform, &revision, 1).await;
        platform.retire(fence(), &shop(), &revision).await.unwrap();
        let logs = platform.logs(&shop(), &revision, 1).await.unwrap();
        let mut said: Vec<&str> = logs.iter().flat_map(|(_, lines)| lines).map(String::as_str).collect();
        said.sort_unstable();
        assert_eq!(said, ["begins", "works"]);
        platform.discard(fence(), &shop(), &revision).await.unwrap();
        assert_eq!(platform.logs(&shop(), &revision, 1).await.unwrap(), []);
        assert_eq!(world.engine.docker(&["images", "--quiet", "--filter", "reference=cutover-*/shop"]), "");
    });
}

#[test]
fn engines_of_tests_leave_no_network_on_the_machine() {
    if !engines_wanted("engines_of_tests_leave_no_network_on_the_machine") {
        return;
    }
    let world = World::new();
    let id = world.engine.docker(&["network", "create", "front"]);
    world.engine.docker(&["run", "--detach", "--network", "front", "busybox", "sleep", "100000"]);
    let link = format!("/sys/class/net/br-{}", &id.trim()[..12]);
    assert!(std::path::Path::new(&link).exists(), "{link}");
    drop(world);
    assert!(!std::path::Path::new(&link).exists(), "{link}");
}
