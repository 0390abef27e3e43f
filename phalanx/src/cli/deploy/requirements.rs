//! Requirements named on the command line: a file of them, or one itself.

use crate::cli::trouble::Trouble;
use std::path::Path;

pub fn read(named: &[String]) -> Result<Vec<String>, Trouble> {
    let mut found = Vec::new();
    for name in named {
        let path = Path::new(name);
        if path.is_file() {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Trouble::usage(format!("{name} cannot be read: {error}")))?;
            found.extend(lines(&text));
        } else if name.ends_with(".txt") || name.contains('/') {
            return Err(Trouble::usage(format!(
                "there is no requirements file {name}"
            )));
        } else {
            found.push(name.clone());
        }
    }
    Ok(found)
}

/// pip's file format without its options, which the server refuses by name.
fn lines(text: &str) -> Vec<String> {
    let joined = text.replace("\\\r\n", " ").replace("\\\n", " ");
    let bare = joined.lines().map(|line| {
        let line = if line.trim_start().starts_with('#') {
            ""
        } else {
            line
        };
        let line = line.split(" #").next().unwrap_or("");
        line.split(" --hash").next().unwrap_or("").trim().to_owned()
    });
    bare.filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_pip_does() {
        assert_eq!(
            lines("# c\na>=1 # why\n\nb==2 \\\n  --hash=sha256:00\n"),
            ["a>=1", "b==2"]
        );
        assert!(read(&["nowhere.txt".to_owned()]).is_err());
        assert_eq!(read(&["agno".to_owned()]).expect("a requirement"), ["agno"]);
    }
}
