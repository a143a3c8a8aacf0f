//! `leasehold doctor`: what is wrong with a server.

use std::time::Duration;

use leasehold::Printable;
use leasehold::doctor::{Finding, Level, Report, examine};

use super::exit::{Ended, print};
use super::json;

const COLUMNS: [&str; 4] = ["LEVEL", "CHECK", "WHERE", "FOUND"];

pub(crate) async fn report(url: &str, json: bool) -> Ended {
    let report = examine(url).await?;
    print(if json { json::pretty(&as_json(&report))? } else { table(&report.findings) })?;
    Ok(u8::from(report.level() == Level::Wrong))
}

fn as_json(report: &Report) -> serde_json::Value {
    let millis = |ttl: Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    serde_json::json!({
        "level": report.level(),
        "findings": report.findings,
        "minimum_ttl_ms": report.minimum_ttl.map(millis),
    })
}

/// The findings, each with its advice below it. What is the same at several servers is one row.
fn table(findings: &[Finding]) -> String {
    let mut rows: Vec<(&Finding, usize)> = Vec::new();
    for finding in findings {
        let same = rows.iter_mut().find(|(other, _)| Finding { at: other.at.clone(), ..finding.clone() } == **other);
        match same {
            Some((_, count)) => *count += 1,
            None => rows.push((finding, 1)),
        }
    }
    // Those of one check together, in the order of the checks.
    let first = |check: &str| findings.iter().position(|finding| finding.check == check);
    rows.sort_by_key(|(finding, _)| first(finding.check));
    let cells = |&(finding, count): &(&Finding, usize)| {
        let place = if count == 1 { Printable(&finding.at).to_string() } else { format!("{count} servers") };
        [word(finding.level).to_owned(), finding.check.to_owned(), place, Printable(&finding.found).to_string()]
    };
    let lines: Vec<_> = std::iter::once(COLUMNS.map(str::to_owned)).chain(rows.iter().map(cells)).collect();
    let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..COLUMNS.len()).map(width).collect();
    let line = |cells: &[String; COLUMNS.len()]| {
        let padded: Vec<_> = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let advice = std::iter::once(None).chain(rows.iter().map(|(finding, _)| finding.advice.as_deref()));
    let with_advice = lines.iter().zip(advice).map(|(cells, advice)| match advice {
        Some(advice) => format!("{}\n{:indent$}{advice}", line(cells), "", indent = widths[0] + 2),
        None => line(cells),
    });
    with_advice.collect::<Vec<_>>().join("\n")
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Note => "note",
        Level::Wrong => "wrong",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(at: &str, level: Level, found: &str) -> Finding {
        let advice = (level > Level::Ok).then(|| "Do something.".to_owned());
        Finding { at: at.into(), check: "version", level, found: found.into(), advice }
    }

    #[test]
    fn equal_findings_are_one_row_and_texts_are_escaped() {
        let hostile = "\u{1b}[2J\n".repeat(1000);
        let findings = [
            finding("a:1", Level::Ok, "7.0"),
            Finding { check: "role", ..finding("a:1", Level::Ok, "master") },
            finding("b:1", Level::Ok, "7.0"),
            finding("c:1", Level::Note, &hostile),
            finding(&hostile, Level::Wrong, "none"),
        ];
        let table = table(&findings);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 1 + 4 + 2, "{table}");
        assert!(lines[0].starts_with("LEVEL  CHECK    WHERE"), "{table}");
        assert!(lines[1].starts_with("ok     version  2 servers") && lines[1].ends_with("7.0"), "{table}");
        assert!(lines[2].starts_with("note ") && lines[3] == "       Do something.", "{table}");
        assert!(lines[6].starts_with("ok     role     a:1 "), "{table}");
        assert!(!table.contains('\u{1b}') && lines.iter().all(|line| line.chars().count() < 700), "{table}");
    }

    #[test]
    fn json_has_all_of_it() {
        let findings = vec![finding("a\u{1b}", Level::Wrong, "x".repeat(1000).as_str())];
        let json = as_json(&Report { findings, minimum_ttl: Some(Duration::from_secs(6)) });
        assert_eq!((&json["level"], &json["minimum_ttl_ms"]), (&"wrong".into(), &6000.into()));
        let first = &json["findings"][0];
        assert_eq!((&first["level"], &first["at"]), (&"wrong".into(), &"a\u{1b}".into()));
        assert_eq!((first["found"].as_str().unwrap().len(), &first["advice"]), (1000, &"Do something.".into()));
        let none = as_json(&Report { findings: Vec::new(), minimum_ttl: None });
        assert_eq!((&none["level"], &none["minimum_ttl_ms"]), (&"ok".into(), &serde_json::Value::Null));
    }
}
