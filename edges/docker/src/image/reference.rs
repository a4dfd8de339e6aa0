//! Names of images: which registry they are in, which repository, tag and digest.

use std::fmt;

use cutover_core::Fault;

/// Docker's own registry, which stands unwritten before a name without one.
pub(crate) const HUB: &str = "docker.io";

/// The name of an image, such as `registry.example:5000/team/shop:1.4`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// The registry, without a scheme: `docker.io` where none is written.
    pub(crate) registry: String,
    /// The repository as people and the engine write it: with its registry, unless that is Docker's own.
    pub(crate) repository: String,
    /// The tag; `latest` where neither tag nor digest is written.
    pub(crate) tag: Option<String>,
    /// The digest, `sha256:…`.
    pub(crate) digest: Option<String>,
}

impl Reference {
    /// Reads what `docker pull` would take.
    pub(crate) fn parse(text: &str) -> Result<Reference, Fault> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) if is_digest(digest) => (name, Some(digest.to_owned())),
            Some(_) => return Err(unreadable(text)),
            None => (text, None),
        };
        // A colon before the last slash is the port of the registry.
        let from = name.rfind('/').map_or(0, |slash| slash + 1);
        let (path, tag) = match name[from..].split_once(':') {
            Some((last, tag)) => (&name[..from + last.len()], Some(tag.to_owned())),
            None => (name, None),
        };
        if path.is_empty() || !tag.as_deref().is_none_or(is_tag) {
            return Err(unreadable(text));
        }
        let is_host = |first: &str| first.contains(['.', ':']) || first == "localhost";
        let (registry, repository) = match path.split_once('/') {
            Some((first, rest)) if is_hub(first) => (HUB, rest.strip_prefix("library/").unwrap_or(rest)),
            Some((first, _)) if is_host(first) => (first, path),
            _ => (HUB, path.strip_prefix("library/").unwrap_or(path)),
        };
        let path = if registry == HUB { repository } else { &repository[registry.len() + 1..] };
        if !is_path(path) {
            return Err(unreadable(text));
        }
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Reference { registry: registry.into(), repository: repository.into(), tag, digest })
    }

    /// Returns the same repository at exactly this digest.
    pub(crate) fn at(&self, digest: &str) -> String {
        format!("{}@{digest}", self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

/// Tells whether the text is a digest or an image's id.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Returns the beginning of a digest: enough for a person to tell two apart.
pub(crate) fn short(digest: &str) -> &str {
    digest.get(.."sha256:".len() + 12).unwrap_or(digest)
}

/// Tells whether the host is Docker's own registry, under any of its names.
pub(crate) fn is_hub(host: &str) -> bool {
    [HUB, "index.docker.io", "registry-1.docker.io"].contains(&host)
}

fn is_path(path: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c);
    path.split('/')
        .all(|name| name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(word))
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    !tag.is_empty() && tag.len() <= 128 && !tag.starts_with(['.', '-']) && tag.chars().all(word)
}

fn unreadable(text: &str) -> Fault {
    Fault::configuration(format!("read the image `{text}`: it names none"))
        .hint("Write it as for `docker pull`, such as registry.example/shop:1.4.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_falls_into_registry_repository_tag_and_digest() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let check = |text: &str, registry: &str, repository: &str, tag: Option<&str>| {
            let read = Reference::parse(text).unwrap();
            assert_eq!((read.registry.as_str(), read.repository.as_str()), (registry, repository), "{text}");
            assert_eq!(read.tag.as_deref(), tag, "{text}");
        };
        check("shop", HUB, "shop", Some("latest"));
        check("docker.io/library/nginx:1.25", HUB, "nginx", Some("1.25"));
        check("team/shop:v1", HUB, "team/shop", Some("v1"));
        check("localhost/shop", "localhost", "localhost/shop", Some("latest"));
        check("host:5000/a/b", "host:5000", "host:5000/a/b", Some("latest"));
        check("ghcr.io/a/b:2", "ghcr.io", "ghcr.io/a/b", Some("2"));
        check(&format!("ghcr.io/a@{digest}"), "ghcr.io", "ghcr.io/a", None);
        check(&format!("ghcr.io/a:1@{digest}"), "ghcr.io", "ghcr.io/a", Some("1"));
        assert_eq!(Reference::parse("a:1").unwrap().at(&digest), format!("a@{digest}"));
    }

    #[test]
    fn what_names_no_image_is_refused_with_an_example() {
        for bad in
            ["", ":1", "a:", "a:-x", "a@sha256:short", "host:5000/a:b c", "Shop", "host/a//b", "host.x/A"]
        {
            let fault = Reference::parse(bad).unwrap_err();
            assert!(fault.hint.contains("registry.example/shop:1.4"), "{bad}");
        }
    }
}
