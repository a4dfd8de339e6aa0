//! `cutover init`: for each kind of project a plain app, its release file, and where its runtime is there, its release.

use std::fs;
use std::process::Command;

use crate::harness::{Said, Scratch, get};

const PYTHON: &str = "import http.server, os
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'hello from python')
http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), Hello).serve_forever()
";
const NODE: &str = "require('http').createServer((q, s) => s.end('hello from node')).listen(process.env.PORT, '127.0.0.1')\n";
const RUST: &str = "use std::io::{Read, Write};
fn main() {
    let port: u16 = std::env::var(\"PORT\").unwrap().parse().unwrap();
    for stream in std::net::TcpListener::bind((\"127.0.0.1\", port)).unwrap().incoming() {
        let mut stream = stream.unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b\"HTTP/1.1 200 OK\\r\\ncontent-length: 15\\r\\nconnection: close\\r\\n\\r\\nhello from rust\");
    }
}
";
const GO: &str = "package main

import (\n\t\"fmt\"\n\t\"net/http\"\n\t\"os\"\n)

func main() {
\thttp.HandleFunc(\"/\", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, \"hello from go\") })
\tpanic(http.ListenAndServe(\"127.0.0.1:\"+os.Getenv(\"PORT\"), nil))
}
";
const RUBY: &str = "require 'socket'
server = TCPServer.new('127.0.0.1', ENV['PORT'].to_i)
loop do
  client = server.accept
  client.readpartial(4096) rescue nil
  client.write \"HTTP/1.1 200 OK\\r\\ncontent-length: 15\\r\\nconnection: close\\r\\n\\r\\nhello from ruby\"
  client.close
end
";

/// A scratch folder with these files, and what `init` says of it; the route listens where nobody else does.
fn project(files: &[(&str, &str)]) -> (Scratch, Said) {
    let scratch = Scratch::new();
    for (name, text) in files {
        let path = scratch.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let said = scratch.run(&["init"]).expect(0);
    let path = scratch.path().join("cutover.yaml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("127.0.0.1:8080"), "{text}");
    fs::write(&path, text.replace("127.0.0.1:8080", &scratch.address.to_string()) + "bake: 0s\n").unwrap();
    scratch.run(&["check"]).expect(0);
    (scratch, said)
}

/// Releases what is there, and asks it.
fn runs(scratch: &Scratch, answer: &str) {
    scratch.deploy().expect(0);
    // The body may come in chunks.
    let (status, body) = get(scratch.address, "/").unwrap();
    assert!(status == 200 && body.contains(answer), "{status} {body}");
}

/// Runs a step that `init` named; says so where its program is not there.
fn step(scratch: &Scratch, test: &str, program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).current_dir(scratch.path());
    // The target folder that `cargo test` itself may have been given is not this project's.
    command.env_remove("CARGO_TARGET_DIR").env_remove("CARGO_BUILD_TARGET_DIR").env("GOFLAGS", "-mod=mod");
    command.env("GOCACHE", scratch.path().join("gocache")).env("GOTOOLCHAIN", "local");
    match command.output() {
        Ok(output) => {
            let said = Said::from(output);
            said.expect(0);
            true
        }
        Err(_) => {
            println!("skipped: {test}: its file checks, but to run it needs {program}");
            false
        }
    }
}

fn there(test: &str, program: &str, version: &str) -> bool {
    let there = Command::new(program).arg(version).output().is_ok_and(|output| output.status.success());
    if !there {
        println!("skipped: {test}: its file checks, but to run it needs {program}");
    }
    there
}

#[test]
fn a_procfile() {
    let (scratch, said) = project(&[
        (
            "Procfile",
            "# ours\nrelease: ./migrate\nweb: python3 app.py --port $PORT\nworker: python3 worker.py\nclock: python3 worker.py\nadmin: python3 app.py --port $PORT\n",
        ),
        ("app.py", PYTHON),
        ("worker.py", "import time\nwhile True: time.sleep(1)\n"),
        ("package.json", "{\"scripts\": {\"start\": \"node server.js\"}}"),
    ]);
    assert!(said.out.contains("found Procfile: its process `web`"), "{}", said.out);
    assert!(said.out.contains("and beside it run: worker, clock"), "{}", said.out);
    assert!(said.out.contains("found package.json: not used, Procfile says what runs"), "{}", said.out);
    let text = fs::read_to_string(scratch.path().join("cutover.yaml")).unwrap();
    assert!(text.contains("command: [python3, app.py, --port, $PORT]"), "{text}");
    assert!(text.contains("# - release: ./migrate (run it before") && text.contains("# - admin:"), "{text}");
    assert!(text.contains("\n  worker: {command: [python3, worker.py]}\n"), "{text}");
    assert!(text.contains("\n  clock: {command: [python3, worker.py], overlap: false}\n"), "{text}");
    if there("a_procfile", "python3", "--version") {
        runs(&scratch, "hello from python");
    }
}

#[test]
fn a_procfile_that_needs_a_shell() {
    let (scratch, _) =
        project(&[("Procfile", "web: MODE=${MODE:-quiet} python3 'app.py'\n"), ("app.py", PYTHON)]);
    if there("a_procfile_that_needs_a_shell", "python3", "--version") {
        runs(&scratch, "hello from python");
        // The shell became the service, so that the stop signal reaches it.
        let commands = scratch.processes();
        assert!(commands.iter().all(|(_, command)| !command.starts_with("sh -c")), "{commands:?}");
    }
}

#[test]
fn a_node_package() {
    let package = "{\"name\": \"@acme/web\", \"scripts\": {\"start\": \"node server.js\"}}";
    let (scratch, said) = project(&[("package.json", package), ("server.js", NODE)]);
    assert!(said.out.contains("cutover.yaml is written: web by `node server.js`"), "{}", said.out);
    if there("a_node_package", "node", "--version") {
        runs(&scratch, "hello from node");
    }
}

#[test]
fn a_python_project() {
    let project_file = "[project]\nname = \"tea-shop\"\nversion = \"1\"\ndependencies = []\n";
    let (scratch, said) = project(&[("pyproject.toml", project_file), ("main.py", PYTHON)]);
    assert!(said.out.contains("tea-shop by `python3 main.py`"), "{}", said.out);
    if there("a_python_project", "python3", "--version") {
        runs(&scratch, "hello from python");
    }
}

#[test]
fn a_cargo_package() {
    let manifest = "[package]\nname = \"tea\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[workspace]\n";
    let (scratch, said) = project(&[("Cargo.toml", manifest), ("src/main.rs", RUST)]);
    assert!(said.out.contains("next: cargo build --release\n      cutover check"), "{}", said.out);
    if step(&scratch, "a_cargo_package", "cargo", &["build", "--quiet", "--release", "--offline"]) {
        runs(&scratch, "hello from rust");
    }
}

#[test]
fn a_go_module() {
    let (scratch, said) = project(&[("go.mod", "module example.com/tea/v2\n\ngo 1.18\n"), ("main.go", GO)]);
    assert!(said.out.contains("next: go build -o bin/tea ."), "{}", said.out);
    if step(&scratch, "a_go_module", "go", &["build", "-o", "bin/tea", "."]) {
        runs(&scratch, "hello from go");
    }
}

#[test]
fn a_ruby_project() {
    let (scratch, said) = project(&[("Gemfile", "source 'https://rubygems.org'\n"), ("app.rb", RUBY)]);
    assert!(said.out.contains("`bundle exec ruby app.rb` starts the service"), "{}", said.out);
    if step(&scratch, "a_ruby_project", "bundle", &["install", "--quiet", "--local"]) {
        runs(&scratch, "hello from ruby");
    }
}

#[test]
fn a_dockerfile() {
    let file = "FROM python:3 AS build\nRUN make\nFROM python:3\nWORKDIR /app\nCOPY . .\nENV MODE=quiet PORT=8000\nUSER app\n\
                EXPOSE 8000\nHEALTHCHECK CMD curl -f http://localhost:8000/healthz\n\
                ENTRYPOINT [\"python3\"]\nCMD [\"/app/app.py\", \"--port\", \"8000\"]\n";
    let (scratch, said) = project(&[("Dockerfile", file), ("app.py", PYTHON)]);
    assert!(said.out.contains("there is no docker platform yet"), "{}", said.out);
    let text = fs::read_to_string(scratch.path().join("cutover.yaml")).unwrap();
    assert!(text.contains("command: [python3, ./app.py, --port, $PORT]"), "{text}");
    assert!(text.contains("health: [{path: /healthz}]") && text.contains("      MODE: quiet"), "{text}");
    for left in ["COPY . .", "USER app", "EXPOSE 8000", "ENV PORT"] {
        assert!(text.contains(&format!("# - {left}")), "{left}:\n{text}");
    }
    if there("a_dockerfile", "python3", "--version") {
        runs(&scratch, "hello from python");
    }
}

#[test]
fn a_file_that_is_there_is_left_alone() {
    let scratch = Scratch::new();
    fs::write(scratch.path().join("Procfile"), "web: ./shop\n").unwrap();
    fs::write(scratch.path().join("cutover.yaml"), "mine\n").unwrap();
    let said = scratch.run(&["init"]).expect(2);
    assert!(said.err.contains("left as it is") && said.err.contains("--force"), "{}", said.err);
    assert_eq!(fs::read_to_string(scratch.path().join("cutover.yaml")).unwrap(), "mine\n");
    let told = scratch.run(&["init", "--force", "--output", "json"]).expect(0).json();
    assert_eq!(told["command"], serde_json::json!(["./shop"]));
    scratch.run(&["check"]).expect(0);
}

#[test]
fn a_folder_with_nothing_to_run_is_told_what_was_looked_for() {
    let scratch = Scratch::new();
    let said = scratch.run(&["init"]).expect(2).err;
    assert!(said.contains("found nothing to run") && said.contains("Procfile, Cargo.toml"), "{said}");
    fs::write(scratch.path().join("Cargo.toml"), "[workspace]\nmembers = [\"a\"]\n").unwrap();
    let said = scratch.run(&["init"]).expect(2).err;
    assert!(said.contains("found Cargo.toml: not used, it is a workspace"), "{said}");
    assert!(!scratch.path().join("cutover.yaml").exists());
}
