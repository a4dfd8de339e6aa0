//! Projects that run from their folder: Node, Python, Ruby.

use std::path::Path;

use super::draft::Draft;
use super::{Found, shell, text, toml};

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(String::from).collect()
}

/// A Node package with a start script, or a program to give to node.
pub(super) fn node(folder: &Path) -> Option<Found> {
    let package: serde_json::Value = match serde_json::from_str(&text(folder, "package.json")?) {
        Ok(package) => package,
        Err(error) => return Found::unclear(format!("it is not JSON: {error}")),
    };
    let script = |name: &str| package["scripts"][name].as_str().filter(|line| !line.trim().is_empty());
    let managers = [("pnpm-lock.yaml", "pnpm"), ("yarn.lock", "yarn"), ("bun.lock", "bun")];
    let manager =
        managers.iter().find(|(lock, _)| folder.join(lock).exists()).map_or("npm", |(_, name)| name);
    let main = package["main"].as_str().filter(|main| folder.join(main).is_file());
    let usual = ["server.js", "index.js", "app.js", "server.mjs", "index.mjs"];
    let program = main.or_else(|| usual.into_iter().find(|name| folder.join(name).is_file()));
    let (command, from) = match (script("start"), program) {
        // node itself gets the stop signal, without a package manager in between.
        (Some(start), _) if start.starts_with("node ") => {
            (shell::command(start), format!("From package.json: the start script: {start}"))
        }
        (Some(start), _) => {
            (words(&format!("{manager} run start")), format!("From package.json: the start script: {start}"))
        }
        (None, Some(program)) => (
            vec!["node".into(), program.into()],
            format!("From package.json: no start script, but {program}"),
        ),
        (None, None) => return Found::unclear("it has no start script and no server.js or index.js"),
    };
    let mut next = Vec::new();
    if package["dependencies"].as_object().is_some_and(|all| !all.is_empty()) {
        next.push(match folder.join("package-lock.json").exists() {
            true => "npm ci".to_string(),
            false => format!("{manager} install"),
        });
    }
    if script("build").is_some() {
        next.push(format!("{manager} run build"));
    }
    Found::service(Draft {
        name: package["name"].as_str().map(String::from),
        why: format!("`{}` starts the service", command.join(" ")),
        from,
        command,
        next,
        ..Draft::default()
    })
}

/// A Python project: a script of its own, a framework's server, or a program to give to python3.
pub(super) fn python(folder: &Path) -> Option<Found> {
    let project = text(folder, "pyproject.toml")?;
    let needs = |name: &str| project.to_lowercase().contains(&format!("\"{name}"));
    let local = [".venv/bin/python", "venv/bin/python"].into_iter().find(|path| folder.join(path).exists());
    let python = local.map_or_else(|| "python3".to_string(), |path| format!("./{path}"));
    let file = ["main.py", "app.py", "server.py", "wsgi.py", "asgi.py"]
        .into_iter()
        .find(|name| folder.join(name).is_file());
    let source = file.and_then(|name| text(folder, name)).unwrap_or_default();
    let module = file.map_or("app", |name| name.trim_end_matches(".py"));
    let line = if needs("uvicorn") || source.contains("FastAPI(") {
        format!("-m uvicorn {module}:app --host 127.0.0.1 --port $PORT")
    } else if folder.join("manage.py").is_file() {
        "manage.py runserver 127.0.0.1:$PORT --noreload".into()
    } else if needs("gunicorn") {
        format!("-m gunicorn --bind 127.0.0.1:$PORT {module}:app")
    } else if source.contains("Flask(") {
        format!("-m flask --app {module} run --host 127.0.0.1 --port $PORT")
    } else if let Some(file) = file {
        file.to_string()
    } else {
        return Found::unclear("no main.py, app.py, server.py or manage.py is beside it");
    };
    let mut draft = Draft {
        name: toml(&project, "project", "name")
            .or_else(|| toml(&project, "tool.poetry", "name"))
            .map(String::from),
        why: format!("`{python} {line}` starts the service"),
        from: format!("From pyproject.toml and what is beside it: {}", file.unwrap_or("manage.py")),
        command: std::iter::once(python).chain(words(&line)).collect(),
        // Else its log arrives when a buffer is full, and that of a crash never.
        env: vec![("PYTHONUNBUFFERED".into(), "1".into())],
        ..Draft::default()
    };
    if line.starts_with("manage.py") {
        draft.notes.push(
            "manage.py runserver is Django's development server: add gunicorn to the project and use it"
                .into(),
        );
    }
    let depends = project
        .split("dependencies")
        .nth(1)
        .and_then(|rest| rest.split('[').nth(1))
        .is_some_and(|list| !list.trim_start().starts_with(']'));
    if depends {
        draft.next.push(match folder.join("uv.lock").exists() {
            true => "uv sync".into(),
            false => "python3 -m venv .venv && .venv/bin/pip install .".into(),
        });
        if local.is_none() {
            draft.notes.push("there is no .venv yet: run cutover init --force after making one, or name its python in the command".into());
        }
    }
    Found::service(draft)
}

/// A Ruby project: Rails, a Rack application, or a program to give to ruby.
pub(super) fn ruby(folder: &Path) -> Option<Found> {
    let gems = text(folder, "Gemfile")?;
    let has = |name: &str| {
        gems.lines()
            .any(|line| line.trim_start().starts_with("gem ") && line.split(['"', '\'']).nth(1) == Some(name))
    };
    let file = ["app.rb", "server.rb", "main.rb"].into_iter().find(|name| folder.join(name).is_file());
    let line = if folder.join("bin/rails").is_file() {
        "bin/rails server -b 127.0.0.1 -p $PORT".to_string()
    } else if folder.join("config.ru").is_file() {
        match has("puma") {
            true => "bundle exec puma -b tcp://127.0.0.1:$PORT".into(),
            false => "bundle exec rackup --host 127.0.0.1 --port $PORT".into(),
        }
    } else if let Some(file) = file {
        format!("bundle exec ruby {file}")
    } else {
        return Found::unclear("no bin/rails, config.ru, app.rb or server.rb is beside it");
    };
    let mut draft = Draft {
        why: format!("`{line}` starts the service"),
        from: "From Gemfile and what is beside it".into(),
        command: words(&line),
        next: vec!["bundle install".into()],
        ..Draft::default()
    };
    if line.starts_with("bin/rails") {
        draft.env =
            vec![("RAILS_ENV".into(), "production".into()), ("RAILS_LOG_TO_STDOUT".into(), "1".into())];
        draft.notes.push("bin/rails db:migrate (run it before `cutover deploy`); SECRET_KEY_BASE and DATABASE_URL belong into secrets".into());
    }
    Found::service(draft)
}
