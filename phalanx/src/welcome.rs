//! What a new user reads first: where Phalanx is, the key, and a deploy and an execute to copy.

use base64::Engine as _;
use std::{
    io::{IsTerminal, Write},
    path::Path,
};

const HELLO: &str = "def handler(input):\n    return {\"hello\": input.get(\"name\", \"world\")}\n";

pub fn print(address: &str, data_dir: &Path, first_key: Option<&str>) {
    // Where it is read by a person, not kept by whatever keeps the output.
    let first_key = first_key.filter(|_| std::io::stdout().is_terminal());
    let text = words(address, data_dir, first_key);
    let mut out = std::io::stdout().lock();
    // Nobody reads it: then there is nobody to tell.
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .ok();
}

fn words(address: &str, data_dir: &Path, first_key: Option<&str>) -> String {
    let (bold, plain) = if std::io::stdout().is_terminal() {
        ("\x1b[1m", "\x1b[0m")
    } else {
        ("", "")
    };
    let dir = data_dir.display();
    let mut text = format!(
        "\n{bold}Phalanx {} is ready at {address}{plain}\n\n",
        env!("CARGO_PKG_VERSION")
    );
    text += &format!("  API reference  {address}/docs\n  Data           {dir}\n");
    text += &match first_key {
        Some(key) => {
            format!(
                "  Admin key      {key}\n                 (shown once; also in {dir}/admin.key)\n"
            )
        }
        None => format!("  Admin key      in {dir}/admin.key\n"),
    };
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "phalanx".to_owned());
    let source = base64::engine::general_purpose::STANDARD.encode(HELLO);
    text += &format!(
        "\nDeploy an agent and run it, with the command line:\n\n  {program} deploy examples/agno_agent.py --requirements agno\n  {program} execute agno-agent '{{\"message\": \"Hello\"}}'\n\n\
         or with REST from another terminal (copy both):\n\n  export KEY=$(cat {dir}/admin.key)\n  curl -s {address}/api/v1/agents/deploy -H \"Authorization: Bearer $KEY\" -H 'Content-Type: application/json' -d '{{\n    \
         \"agent_metadata\": {{\"agent_id\": \"hello\", \"name\": \"Hello\", \"version\": \"1.0.0\"}},\n    \
         \"agent_code\": {{\"source_code\": \"{source}\", \"entrypoint\": \"handler\"}},\n    \"deployment_config\": {{\"environment\": \"dev\"}}\n  }}'\n  \
         curl -s {address}/api/v1/agents/hello/execute -H \"Authorization: Bearer $KEY\" -H 'Content-Type: application/json' \\\n    -d '{{\"input_data\": {{\"parameters\": {{\"name\": \"you\"}}}}}}'\n\n\
         Ctrl-C ends Phalanx; what is deployed is there again at the next start.\n\n"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_said_once_and_the_commands_name_the_address() {
        let first = words("http://127.0.0.1:1", Path::new("/d"), Some("akc_x"));
        assert!(
            first.contains("akc_x") && first.contains("http://127.0.0.1:1/api/v1/agents/deploy")
        );
        assert!(!words("http://127.0.0.1:1", Path::new("/d"), None).contains("akc_"));
    }
}
