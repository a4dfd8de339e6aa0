//! What the tests of images share.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cutover_core::file::{DockerBuild, DockerPlatform};
use cutover_core::{Fault, RevisionId, ServiceName};
use cutover_docker::Engine;
use cutover_docker::image::{BuildSecrets, Credentials, Images, Obtained, Pinned, Retry, Watch};
use cutover_docker_engine::Engine as Running;
use cutover_ports::Secret;

/// Images of a running engine, and what they tell.
pub(crate) struct Bench {
    pub(crate) images: Images,
    pub(crate) told: Arc<Mutex<Vec<String>>>,
    pub(crate) folder: tempfile::TempDir,
}

/// Tries twice, without much of a pause.
pub(crate) const TWICE: Retry =
    Retry { tries: 2, first: Duration::from_millis(50), most: Duration::from_millis(50) };

impl Bench {
    pub(crate) fn of(engine: &Running) -> Bench {
        let nobody = Credentials::of_folder("/nonexistent", "", Duration::from_secs(5));
        Bench::with(engine, nobody, TWICE)
    }

    pub(crate) fn with(engine: &Running, credentials: Credentials, retry: Retry) -> Bench {
        let engine = Engine::at(&engine.host()).unwrap();
        let images = Images::of(&engine, "test", credentials, retry).unwrap();
        Bench { images, told: Arc::default(), folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn watch(&self) -> Watch {
        let told = self.told.clone();
        Watch::new(move |line| told.lock().unwrap().push(line.to_owned())).kept_in(&self.log()).unwrap()
    }

    pub(crate) fn told(&self) -> String {
        self.told.lock().unwrap().join("\n")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("logs/build.log")
    }

    pub(crate) async fn obtain(&self, pinned: &Pinned, revision: &str) -> Result<Obtained, Fault> {
        self.obtain_with(pinned, revision, &BuildSecrets::new()).await
    }

    pub(crate) async fn obtain_with(
        &self,
        pinned: &Pinned,
        revision: &str,
        secrets: &BuildSecrets,
    ) -> Result<Obtained, Fault> {
        self.images.obtain(pinned, (&service(), &RevisionId::new(revision)), secrets, &self.watch()).await
    }

    /// Pins and builds a context.
    pub(crate) async fn build(
        &self,
        build: DockerBuild,
        base: &Path,
        revision: &str,
    ) -> Result<Obtained, Fault> {
        let pinned = self.images.pin(&built(build), base).await?;
        self.obtain(&pinned, revision).await
    }
}

pub(crate) fn service() -> ServiceName {
    ServiceName::new("shop")
}

pub(crate) fn pulled(image: &str) -> DockerPlatform {
    serde_json::from_value(serde_json::json!({"image": image})).unwrap()
}

pub(crate) fn built(build: DockerBuild) -> DockerPlatform {
    serde_json::from_value(serde_json::json!({"build": build})).unwrap()
}

pub(crate) fn build() -> DockerBuild {
    serde_json::from_str("{}").unwrap()
}

pub(crate) fn secret(name: &str, value: &str) -> BuildSecrets {
    [(name.to_owned(), Secret::new(value))].into()
}

/// A folder with these files.
pub(crate) fn context(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

/// Puts a shell with all that it needs into `root` of the context: `COPY root /` makes an image in which RUN works.
pub(crate) fn add_shell(context: &Path) {
    let shell = fs::canonicalize("/bin/sh").unwrap();
    let libraries = Command::new("ldd").arg(&shell).output().unwrap();
    let text = String::from_utf8_lossy(&libraries.stdout).into_owned();
    let put = |from: &Path, to: &Path| {
        let to = context.join("root").join(to.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    put(&shell, Path::new("/bin/sh"));
    text.split_whitespace()
        .filter(|word| word.starts_with('/'))
        .for_each(|path| put(Path::new(path), Path::new(path)));
}

/// A file of this many bytes that no compression makes smaller.
pub(crate) fn noise(path: &Path, bytes: usize) {
    let mut random = fastrand::Rng::with_seed(7);
    fs::write(path, std::iter::repeat_with(|| random.u8(..)).take(bytes).collect::<Vec<u8>>()).unwrap();
}

pub(crate) fn program(path: &Path, text: &str) {
    // By another process: a file that this one wrote may be open in a child of another test that was just forked, and
    // then cannot be run.
    let mut writer = Command::new("sh");
    writer.args(["-c", "printf '%s' \"$1\" >\"$0\""]).arg(path).arg(text);
    assert!(writer.status().unwrap().success());
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
