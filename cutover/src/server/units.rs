//! The texts that let server and proxy start with the machine: systemd units, a line of a crontab.

use std::path::PathBuf;

pub(super) const PROXY_UNIT: &str = "cutover-proxy.service";
pub(super) const SERVER_UNIT: &str = "cutover-server.service";

/// What the texts are made from.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) exe: PathBuf,
    pub(super) state: PathBuf,
    /// What instances inherit of today's environment: a program found today is found after a reboot.
    pub(super) environment: Vec<(&'static str, String)>,
    /// The user that system units run as, unless root.
    pub(super) run_as: Option<String>,
    /// Units of a user's own systemd.
    pub(super) user: bool,
}

impl Setup {
    /// Returns the units by name, in the order in which they start.
    pub(super) fn units(&self) -> [(&'static str, String); 2] {
        let stop = "# A stop ends the first process alone: what it started serves on.\nKillMode=process";
        let proxy = self.unit(
            "Description=cutover proxy: the data plane\nAfter=network-online.target\nWants=network-online.target",
            &["proxy"],
            // SIGHUP replaces the worker by one of the program as it lies on disk then.
            &format!(
                "ExecReload=/bin/kill -HUP $MAINPID\n{stop}\n\
                 # Keeps the listening sockets open over a restart: connections wait, none is refused.\n\
                 NotifyAccess=main\nFileDescriptorStoreMax=128\nTimeoutStopSec=60\nLimitNOFILE=524288"
            ),
        );
        let server = self.unit(
            &format!(
                "Description=cutover server: releases, and instances of services\nAfter={PROXY_UNIT}\nWants={PROXY_UNIT}"
            ),
            &["server", "--no-proxy"],
            &format!("{stop}\nTimeoutStopSec=30\nLimitNOFILE=65536"),
        );
        [(PROXY_UNIT, proxy), (SERVER_UNIT, server)]
    }

    /// Returns the line for a crontab: the server starts the proxy itself.
    pub(super) fn cron_line(&self) -> String {
        let mut words = vec!["env".to_string()];
        words.extend(self.environment.iter().map(|(name, value)| format!("{name}={}", for_shell(value))));
        words.push(for_shell(&self.exe.to_string_lossy()));
        words.extend(["server", "--background", "--state"].map(String::from));
        words.push(for_shell(&self.state.to_string_lossy()));
        let log = for_shell(&self.state.join("server.log").to_string_lossy());
        // A percent sign is the end of a crontab's line.
        format!("@reboot {} >>{log} 2>&1 {}", words.join(" "), self.cron_mark()).replace('%', "\\%")
    }

    /// Returns what tells our line of a crontab from all others.
    pub(super) fn cron_mark(&self) -> String {
        format!("# cutover {}", self.state.display())
    }

    fn unit(&self, head: &str, verb: &[&str], more: &str) -> String {
        let words: Vec<String> = std::iter::once(self.exe.to_string_lossy().into_owned())
            .chain(verb.iter().map(ToString::to_string))
            .chain(["--state".to_string(), self.state.to_string_lossy().into_owned()])
            .map(|word| for_systemd(&word))
            .collect();
        let environment: String = self
            .environment
            .iter()
            .map(|(name, value)| format!("Environment={}\n", for_systemd(&format!("{name}={value}"))))
            .collect();
        let run_as = self.run_as.as_ref().map(|user| format!("User={user}\n")).unwrap_or_default();
        let wanted_by = if self.user { "default.target" } else { "multi-user.target" };
        format!(
            "[Unit]\n{head}\n# Tried again for as long as it takes.\nStartLimitIntervalSec=0\n\n\
             [Service]\nType=exec\nExecStart={}\nRestart=on-failure\nRestartSec=1\n{more}\n{run_as}{environment}\
             # It stays in this unit; instances get cgroups of their own beside it.\nEnvironment=CUTOVER_CGROUP=keep\n\n\
             [Install]\nWantedBy={wanted_by}\n",
            words.join(" ")
        )
    }
}

/// Quotes a word for a unit, where it needs that. A percent sign would be a specifier, a dollar sign a variable.
fn for_systemd(word: &str) -> String {
    let plain = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    if plain.contains([' ', '\t', '"', '\'', '\\', ';']) { format!("\"{plain}\"") } else { plain }
}

/// Quotes a word for a shell, where it needs that.
fn for_shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=,+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn setup() -> Setup {
        Setup {
            exe: "/opt/cutover/bin/cutover".into(),
            state: "/var/lib/my 100% state".into(),
            environment: vec![("PATH", "/usr/bin:/bin".into()), ("HOME", "/home/ann o'neill".into())],
            run_as: Some("ann".into()),
            user: false,
        }
    }

    #[test]
    fn units_say_how_they_start_and_what_a_stop_leaves() {
        let [(_, proxy), (_, server)] = setup().units();
        expect![[r#"
            [Unit]
            Description=cutover proxy: the data plane
            After=network-online.target
            Wants=network-online.target
            # Tried again for as long as it takes.
            StartLimitIntervalSec=0

            [Service]
            Type=exec
            ExecStart=/opt/cutover/bin/cutover proxy --state "/var/lib/my 100%% state"
            Restart=on-failure
            RestartSec=1
            ExecReload=/bin/kill -HUP $MAINPID
            # A stop ends the first process alone: what it started serves on.
            KillMode=process
            # Keeps the listening sockets open over a restart: connections wait, none is refused.
            NotifyAccess=main
            FileDescriptorStoreMax=128
            TimeoutStopSec=60
            LimitNOFILE=524288
            User=ann
            Environment=PATH=/usr/bin:/bin
            Environment="HOME=/home/ann o'neill"
            # It stays in this unit; instances get cgroups of their own beside it.
            Environment=CUTOVER_CGROUP=keep

            [Install]
            WantedBy=multi-user.target
        "#]]
        .assert_eq(&proxy);
        expect![[r#"
            [Unit]
            Description=cutover server: releases, and instances of services
            After=cutover-proxy.service
            Wants=cutover-proxy.service
            # Tried again for as long as it takes.
            StartLimitIntervalSec=0

            [Service]
            Type=exec
            ExecStart=/opt/cutover/bin/cutover server --no-proxy --state "/var/lib/my 100%% state"
            Restart=on-failure
            RestartSec=1
            # A stop ends the first process alone: what it started serves on.
            KillMode=process
            TimeoutStopSec=30
            LimitNOFILE=65536
            User=ann
            Environment=PATH=/usr/bin:/bin
            Environment="HOME=/home/ann o'neill"
            # It stays in this unit; instances get cgroups of their own beside it.
            Environment=CUTOVER_CGROUP=keep

            [Install]
            WantedBy=multi-user.target
        "#]]
        .assert_eq(&server);
        let [_, (_, server)] = Setup { user: true, run_as: None, ..setup() }.units();
        assert!(server.contains("WantedBy=default.target") && !server.contains("User="));
    }

    #[test]
    fn the_line_of_a_crontab_survives_its_percent_signs() {
        expect![[r#"@reboot env PATH=/usr/bin:/bin HOME='/home/ann o'\''neill' /opt/cutover/bin/cutover server --background --state '/var/lib/my 100\% state' >>'/var/lib/my 100\% state/server.log' 2>&1 # cutover /var/lib/my 100\% state"#]].assert_eq(&setup().cron_line());
    }
}
