//! docs/drivers.md shows the very files that the suite runs.

use crate::cluster::project;

/// Before a block of code in that page: the file that it is.
const MARK: &str = "<!-- the file ";
/// Drivers that the page has.
const DRIVERS: usize = 5;

#[test]
fn the_snippets_of_the_documentation_are_what_the_suite_runs() {
    let page = std::fs::read_to_string(project().join("docs/drivers.md")).unwrap();
    let blocks: Vec<_> = page.split(MARK).skip(1).collect();
    assert_eq!(blocks.len(), DRIVERS);
    for block in blocks {
        let (file, rest) = block.split_once(" -->\n```").unwrap();
        let (_language, rest) = rest.split_once('\n').unwrap();
        let (shown, _) = rest.split_once("```\n").unwrap();
        let run = std::fs::read_to_string(project().join(file)).unwrap();
        assert_eq!(shown, run, "{file} is not what docs/drivers.md shows");
    }
}
