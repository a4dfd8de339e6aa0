//! What the ssh client's refusals mean.

use cutover_core::{Fault, file::Destination};

/// Says why there is no connection, in words for whoever set it up.
pub(super) fn explain(to: &Destination, said: &str) -> Fault {
    let has = |text: &str| said.contains(text);
    let host = &to.host;
    let (why, hint) = if has("REMOTE HOST IDENTIFICATION HAS CHANGED") {
        let hint =
            format!("Find out why its key is another one; if it was installed anew: ssh-keygen -R {host}");
        return Fault::configuration(format!("reach {to}: its host key is not the one that is known"))
            .hint(hint);
    } else if has("Host key verification failed") || has("No ED25519 host key is known") {
        (
            "its host key is not known here",
            format!("Look at it and accept it once, as the server's user: ssh {to} true"),
        )
    } else if has("Permission denied") {
        (
            "it does not let this user in with a key",
            format!("Give it the key of the server's user: ssh-copy-id {to}"),
        )
    } else if has("Could not resolve hostname") {
        (
            "there is no host of that name",
            "Correct the name in platform.docker.hosts, or ~/.ssh/config".to_owned(),
        )
    } else if has("forwarding failed")
        || has("administratively prohibited")
        || has("Could not request local forwarding")
    {
        let hint = "Let its sshd forward sockets: AllowStreamLocalForwarding yes, AllowTcpForwarding yes; see that the state \
                    folder here is writable";
        ("sockets cannot be forwarded", hint.to_owned())
    } else if has("Connection refused") {
        ("no sshd listens there", format!("Start it, or correct the port; try: ssh {to} true"))
    } else {
        let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty());
        let what =
            format!("reach {to}: the connection over ssh ended: {}", last.unwrap_or("it says nothing"));
        return Fault::platform(what).hint(format!("Try it by hand, as the server's user: ssh {to} true"));
    };
    Fault::platform(format!("reach {to}: {why}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        let to = Destination { user: Some("deploy".into()), host: "b".into(), port: None };
        for (said, why, hint) in [
            ("Host key verification failed.\r\n", "host key is not known", "ssh deploy@b true"),
            (
                "deploy@b: Permission denied (publickey).\r\n",
                "does not let this user in",
                "ssh-copy-id deploy@b",
            ),
            ("ssh: connect to host b port 22: Connection refused\r\n", "no sshd listens", "Start it"),
            (
                "channel 2: open failed: administratively prohibited: open failed",
                "forwarded",
                "AllowStreamLocalForwarding",
            ),
            ("client_loop: send disconnect: Broken pipe\r\n\r\n", "Broken pipe", "by hand"),
            ("", "it says nothing", "by hand"),
        ] {
            let fault = explain(&to, said);
            assert!(
                fault.what.contains(why) && fault.hint.contains(hint),
                "{said}: {} {}",
                fault.what,
                fault.hint
            );
        }
    }
}
