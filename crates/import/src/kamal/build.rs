//! Kamal builds what it deploys, pushes it to the registry, and pulls it on each host.

use cutover_core::file::FileErrors;
use cutover_core::file::foreign::short;

use super::ruby::is_ruby;
use crate::compose::is_image;
use crate::cursor::Cursor;
use crate::draft::Build;
use crate::import::Work;
use crate::secret;

pub(super) fn import(work: &mut Work<'_>, root: &Cursor<'_>) -> Result<(), FileErrors> {
    let mut build = Build::default();
    image(work, root, &mut build)?;
    let builder = root.get("builder");
    let part = |key: &str| builder.as_ref().and_then(|at| at.get(key));
    let folder = root_folder(work.input.folder);
    match part("context") {
        Some(at)
            if at.text().is_some_and(|text| {
                !text.contains("://") && !text.contains('\0') && !text.is_empty() && !is_ruby(text)
            }) =>
        {
            build.context = at.text().map(|text| joined(&folder, text));
            work.ledger.took(&at);
        }
        Some(at) => {
            work.ledger.left(&at, "the build needs a folder of this machine", "name it in `build.context`");
            build.context = Some(folder);
        }
        None => {
            build.context = Some(folder);
            work.draft.decide(
                "build",
                "Kamal builds what is committed; this builds the folder as it is, without what .dockerignore names",
            );
        }
    }
    for (key, slot) in [("dockerfile", &mut build.dockerfile), ("target", &mut build.target)] {
        if let Some(at) = part(key)
            && let Some(text) =
                at.text().filter(|text| !text.is_empty() && !text.contains('\0') && !is_ruby(text))
        {
            *slot = Some(text.to_string());
            work.ledger.took(&at);
        }
    }
    if let Some(at) = part("args") {
        for pair in at.pairs() {
            match pair.value.filter(|value| !is_ruby(value) && !value.contains('\0')) {
                Some(value) if !secret::is_secret(pair.key, value) => {
                    build.args.insert(pair.key.to_string(), value.to_string());
                    work.ledger.took(&pair.at);
                }
                _ => {
                    let what =
                        "an argument can be read in the image by everybody, so its value was not copied";
                    work.ledger.left(&pair.at, what, "make it a secret of the build: build.secrets");
                }
            }
        }
    }
    if let Some(at) = part("secrets") {
        for item in at.each() {
            let Some(name) = item.text().filter(|name| is_word(name) && !build.args.contains_key(*name))
            else {
                continue;
            };
            if !build.secrets.iter().any(|known| known == name) {
                build.secrets.push(name.to_string());
            }
            work.ledger.took(&item);
        }
    }
    work.draft.build = Some(build);
    Ok(())
}

fn image(work: &mut Work<'_>, root: &Cursor<'_>, build: &mut Build) -> Result<(), FileErrors> {
    let server = root.find(&["registry", "server"]);
    let Some(at) = root.get("image") else {
        work.draft.decide(
            "push",
            "the name of the image in your registry, without a tag; the Kamal file names none",
        );
        return Ok(());
    };
    let Some(name) = at.text().filter(|text| !is_ruby(text)) else {
        work.draft.decide("push", "the name of the image in your registry, without a tag");
        return Ok(());
    };
    // Kamal gives the tag itself.
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let end = name[last..].find([':', '@']).map_or(name.len(), |tag| last + tag);
    let server_name = server.as_ref().and_then(|at| at.text()).filter(|text| !is_ruby(text));
    let push = match server_name {
        Some(server) => format!("{}/{}", server.trim_end_matches('/'), &name[..end]),
        None => name[..end].to_string(),
    };
    if !is_image(&push) {
        let what = format!("`{}` is not the name of an image", short(&push));
        return Err(work.file.error(at.node.place, what, "such as `image: acme/shop`"));
    }
    build.push = Some(push);
    work.ledger.took(&at);
    Ok(())
}

pub(super) fn is_word(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(word)
}

/// The project's folder: Kamal's file lies in its `config`.
pub(super) fn root_folder(folder: &str) -> String {
    let trimmed = folder.trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        Some(("", "config")) => "/".into(),
        Some((above, "config")) => above.into(),
        None if trimmed == "config" => ".".into(),
        _ if trimmed.is_empty() => ".".into(),
        _ => trimmed.into(),
    }
}

fn joined(folder: &str, path: &str) -> String {
    match path {
        "." | "./" => folder.to_string(),
        path if path.starts_with('/') || folder == "." => path.to_string(),
        path => format!("{folder}/{}", path.trim_start_matches("./")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projects_folder_is_the_one_above_config() {
        for (folder, root) in [
            ("config", "."),
            (".", "."),
            ("", "."),
            ("shop/config", "shop"),
            ("/srv/config/", "/srv"),
            ("x", "x"),
        ] {
            assert_eq!(root_folder(folder), root, "{folder}");
        }
        assert_eq!(joined("shop", "./api"), "shop/api");
        assert_eq!(joined(".", "."), ".");
    }
}
