//! What was found, and every attack that somebody thought of, through the target that it was meant for.

use std::{fs, panic::catch_unwind, path::Path};

/// Fewest inputs of a target: a corpus that lost its files must not pass.
const INPUTS_MIN: usize = 20;

#[test]
fn the_corpus_keeps_every_rule() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    let mut broken = Vec::new();
    for (name, target) in fuzz_targets::ALL {
        let inputs = fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path());
        let inputs: Vec<_> = inputs.collect();
        assert!(inputs.len() >= INPUTS_MIN, "{name}: {} inputs", inputs.len());
        for input in inputs {
            let data = fs::read(&input).unwrap();
            if catch_unwind(|| target(&data)).is_err() {
                broken.push(input.strip_prefix(&corpus).unwrap().to_owned());
            }
        }
    }
    assert!(broken.is_empty(), "these break a rule: {broken:#?}");
}
