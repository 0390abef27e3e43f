//! `docs/attacks.md`, the table of what each attack got, is held to the attacks: none without a row, and no row that its test would not let
//! pass.

use crate::{attacks::ATTACKS, bombs::BOMBS, ends::ENDS};
use phalanx_tests::program::repository;
use std::{collections::BTreeSet, fs};

const PAGE: &str = "docs/attacks.md";

/// The rows below a heading: the name of each, and its other columns.
fn rows(page: &str, heading: &str) -> Vec<(String, Vec<String>)> {
    let part = page.split("\n## ").find(|part| part.starts_with(heading));
    let part = part.unwrap_or_else(|| panic!("{PAGE} has no part {heading:?}"));
    let cells = part.lines().filter_map(|line| {
        let line = line.strip_prefix("| `")?.strip_suffix(" |")?;
        let (name, rest) = line.split_once("` | ")?;
        Some((
            name.to_owned(),
            rest.split('|').map(|cell| cell.trim().to_owned()).collect(),
        ))
    });
    cells.collect()
}

fn same<'a>(rows: &'a [(String, Vec<String>)], known: impl Iterator<Item = &'a str>) {
    let rows: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(rows, known.collect::<Vec<_>>(), "the rows of {PAGE}");
}

#[test]
fn every_attack_has_a_row_that_is_true() {
    let page = fs::read_to_string(repository().join(PAGE)).expect("the page");

    let reaching = rows(&page, "Reaching what is not its own");
    same(&reaching, ATTACKS.iter().map(|(name, _)| *name));
    for ((name, fails), (_, cells)) in ATTACKS.iter().zip(&reaching) {
        let [tries, got] = &cells[..] else {
            panic!("{name}: {cells:?}")
        };
        let got: Vec<&str> = got.split(", ").collect();
        assert!(
            tries.parse().is_ok_and(|tries: u32| tries > 0)
                && got.iter().all(|one| fails.contains(one)),
            "{name}: {tries} tries, {got:?}; allowed is {fails:?}"
        );
    }

    let ending = rows(&page, "Ending its own instance");
    same(&ending, ENDS.iter().map(|(name, _)| *name));
    for ((name, ends), (_, cells)) in ENDS.iter().zip(&ending) {
        assert!(
            cells.len() == 1 && ends.contains(&cells[0].as_str()),
            "{name}: {cells:?}; allowed is {ends:?}"
        );
    }

    let using = rows(&page, "Using up what all share");
    same(&using, BOMBS.iter().map(|(name, _)| *name));
    for ((name, most), (_, cells)) in BOMBS.iter().zip(&using) {
        let [came_to, stopped_by] = &cells[..] else {
            panic!("{name}: {cells:?}")
        };
        let ended = ["OUT_OF_MEMORY", "INSTANCE_CRASHED", "HANDLER_TIMEOUT"];
        assert!(
            came_to
                .parse()
                .is_ok_and(|n: u64| n <= *most && !stopped_by.is_empty())
                || came_to == "–" && ended.contains(&stopped_by.as_str()),
            "{name}: {cells:?}; allowed is at most {most}"
        );
    }
    assert!(reaching.len() + ending.len() + using.len() >= 60);
}

/// The others are tests of one story each.
#[test]
fn every_other_test_has_a_row() {
    let page = fs::read_to_string(repository().join(PAGE)).expect("the page");
    let rest = rows(&page, "The rest");
    let told: BTreeSet<String> = rest.into_iter().map(|(name, _)| name).collect();
    let mut there = BTreeSet::new();
    let folder = fs::read_dir(repository().join("tests/it/hostile")).expect("this folder");
    for file in folder.map(|file| file.expect("a file").path()) {
        let stem = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if file.extension().is_none_or(|end| end != "rs")
            || ["attacks", "ends", "bombs", "page"].contains(&stem.as_str())
        {
            continue;
        }
        let text = fs::read_to_string(&file).expect("read");
        let tests = text.split("#[tokio::test]\nasync fn ").skip(1);
        there.extend(tests.filter_map(|test| Some(format!("{stem}::{}", test.split_once('(')?.0))));
    }
    assert_eq!(told, there, "the last rows of {PAGE}");
}
