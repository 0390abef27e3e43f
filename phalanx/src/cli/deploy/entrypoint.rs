//! Which entry point a source most likely means, by a light look at its top-level lines. Python decides at import; this only
//! spares typing, so it says what it chose.

use super::source::Source;
use crate::cli::trouble::Trouble;

#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    pub entrypoint: String,
    pub why: String,
}

/// Modules that hold a folder's entry point, the likeliest first.
const MODULES: [&str; 5] = ["agent.py", "main.py", "app.py", "handler.py", "__main__.py"];
const FUNCTIONS: [&str; 4] = ["handler", "main", "run", "invoke"];
/// A workflow is made of teams, and a team of agents: the whole comes first.
const OBJECTS: [&str; 3] = ["workflow", "team", "agent"];

pub fn choose(source: &Source) -> Result<Choice, Trouble> {
    let (file, text) = source.main(&MODULES).ok_or_else(|| {
        Trouble::usage(format!("the folder has none of {} and more than one module: name one with --entrypoint module:attribute", MODULES.join(", ")))
    })?;
    let found = look(text).ok_or_else(|| {
        Trouble::usage(format!(
            "{file} has no top-level function {} and no app, agent, team or workflow: name one with --entrypoint",
            FUNCTIONS.join(", ")
        ))
    })?;
    Ok(match found {
        Found::App => Choice {
            entrypoint: file.to_owned(),
            why: format!("{file} serves an app"),
        },
        Found::Function(name) => named(source, file, &name, "function"),
        Found::Object(name) => named(source, file, &name, "object"),
    })
}

fn named(source: &Source, file: &str, name: &str, kind: &str) -> Choice {
    let entrypoint = if source.is_file() {
        name.to_owned()
    } else {
        format!("{}:{name}", file.trim_end_matches(".py").replace('/', "."))
    };
    Choice {
        entrypoint,
        why: format!("{file} has the {kind} {name}"),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    App,
    Object(String),
    Function(String),
}

fn look(text: &str) -> Option<Found> {
    let mut functions = Vec::new();
    let mut assigned = Vec::new();
    for line in text.lines() {
        if let Some(name) = function(line) {
            functions.push(name);
        } else if let Some(name) = assignment(line) {
            assigned.push(name);
        }
    }
    let served = text
        .lines()
        .any(|line| line.trim_start().starts_with("app.run("));
    if assigned.contains(&"app") || served {
        return Some(Found::App);
    }
    if functions.contains(&"handler") {
        return Some(Found::Function("handler".to_owned()));
    }
    if let Some(object) = OBJECTS.iter().find(|name| assigned.contains(*name)) {
        return Some(Found::Object((*object).to_owned()));
    }
    if let Some(function) = FUNCTIONS.iter().find(|name| functions.contains(*name)) {
        return Some(Found::Function((*function).to_owned()));
    }
    let public: Vec<_> = functions
        .into_iter()
        .filter(|name| !name.starts_with('_'))
        .collect();
    match public.as_slice() {
        [only] => Some(Found::Function((*only).to_owned())),
        _ => None,
    }
}

fn function(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("async ").map_or(line, str::trim_start);
    let rest = rest.strip_prefix("def ")?;
    Some(rest[..rest.find(['(', '['])?].trim())
}

fn assignment(line: &str) -> Option<&str> {
    if line.starts_with([' ', '\t', '#', '"', '\'']) {
        return None;
    }
    let (name, value) = line.split_once('=')?;
    let name = name.split(':').next().unwrap_or(name).trim();
    let word = !name.is_empty() && name.chars().all(|c| c == '_' || c.is_alphanumeric());
    (word && !value.starts_with('=')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_source_most_likely_means() {
        let function = |name: &str| Some(Found::Function(name.to_owned()));
        let object = |name: &str| Some(Found::Object(name.to_owned()));
        for (text, wanted) in [
            ("def handler(input):\n    pass\n", function("handler")),
            (
                "async def run(x):\n    pass\ndef helper():\n    pass\n",
                function("run"),
            ),
            (
                "agent = Agent()\nteam = Team(members=[agent])\n",
                object("team"),
            ),
            (
                "agent: Agent = Agent()\ndef handler(i): ...\n",
                function("handler"),
            ),
            (
                "app = FastAPI()\nagent = Agent()\ndef handler(): ...\n",
                Some(Found::App),
            ),
            (
                "async def stream(input, context):\n    yield 1\n",
                function("stream"),
            ),
            ("def _a(): ...\ndef b(): ...\n", function("b")),
            ("def a(): ...\ndef b(): ...\n", None),
            ("class A:\n    def handler(self): ...\n", None),
            ("if agent == 1:\n    agent = 2\n", None),
            ("", None),
        ] {
            assert_eq!(look(text), wanted, "{text}");
        }
    }
}
