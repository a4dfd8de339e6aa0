//! Which values must not be copied: who writes a password into a file did not want it in another one.

/// Words in the name of a variable that say that its value is a secret.
const WORDS: [&str; 14] = [
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "TOKEN",
    "APIKEY",
    "API_KEY",
    "ACCESS_KEY",
    "PRIVATE_KEY",
    "MASTER_KEY",
    "ENCRYPTION_KEY",
    "CREDENTIAL",
    "SALT",
    "DSN",
];

/// Tells whether a variable of this name holds a secret.
pub(crate) fn is_secret_name(name: &str) -> bool {
    let name = name.to_uppercase();
    // What ends so names a file or a switch, whatever it is of.
    if ["_FILE", "_PATH", "_DIR", "_ENABLED", "_TTL", "_EXPIRY"].iter().any(|end| name.ends_with(end)) {
        return false;
    }
    let last = name.rsplit('_').next().unwrap_or_default();
    WORDS.iter().any(|word| name.contains(word)) || matches!(last, "PASS" | "PWD" | "KEY" | "PW")
}

/// Tells whether a variable must not be copied with its value.
pub(crate) fn is_secret(name: &str, value: &str) -> bool {
    is_secret_name(name) || has_login(value) || value.contains("-----BEGIN")
}

/// Tells whether a word of a command line holds a secret: `--password=…`, `TOKEN=…`, a login in a URL.
pub(crate) fn is_secret_argument(word: &str) -> bool {
    let option = word.trim_start_matches('-').split_once('=');
    has_login(word)
        || option.is_some_and(|(name, value)| !value.is_empty() && is_secret_name(&name.replace('-', "_")))
}

/// `scheme://user:password@host`.
fn has_login(value: &str) -> bool {
    value.match_indices("://").any(|(at, _)| {
        let rest = &value[at + 3..];
        let authority = &rest[..rest.find(['/', '?', '#', ' ']).unwrap_or(rest.len())];
        authority
            .rsplit_once('@')
            .is_some_and(|(login, _)| login.split_once(':').is_some_and(|(_, password)| !password.is_empty()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_name_or_value() {
        for name in ["DB_PASSWORD", "secret_key_base", "STRIPE_KEY", "PGPASS", "SMTP_PASS", "SENTRY_DSN"] {
            assert_eq!(is_secret_name(name), name != "PGPASS", "{name}");
        }
        for (word, secret) in
            [("--db-password=x", true), ("--password=", false), ("amqp://a:b@c", true), ("serve", false)]
        {
            assert_eq!(is_secret_argument(word), secret, "{word}");
        }
        assert!(is_secret("DATABASE_URL", "postgres://shop:hunter2@db:5432/shop"));
        for (name, value) in [
            ("DATABASE_URL", "postgres://db/shop"),
            ("DATABASE_URL", "postgres://shop@db/shop"),
            ("DB_PASSWORD_FILE", "/run/secrets/db"),
            ("LOG_LEVEL", "info"),
            ("MONKEY", "true"),
        ] {
            assert!(!is_secret(name, value), "{name}={value}");
        }
    }
}
