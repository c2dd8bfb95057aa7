//! Cargo.lock as a list of packages.
//!
//! Only cargo writes the file, one key a line, so reading it needs no TOML parser.

/// One package of a Cargo.lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it comes from; empty for a member of the workspace.
    pub source: String,
    /// The SHA-256 of its archive in hexadecimal; empty for a member of the workspace.
    pub checksum: String,
}

/// Returns the packages in the order of the file.
pub fn packages(lock: &str) -> Vec<Package> {
    let mut packages = Vec::new();
    for block in lock.split("[[package]]").skip(1) {
        let mut package = Package::default();
        for (key, value) in block.lines().filter_map(|line| line.split_once(" = ")) {
            let value = value.trim_matches('"').to_owned();
            match key {
                "name" => package.name = value,
                "version" => package.version = value,
                "source" => package.source = value,
                "checksum" => package.checksum = value,
                _ => {}
            }
        }
        packages.push(package);
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read_with_and_without_a_source() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.2.3\"\nsource = \"registry+x\"\n\
                    checksum = \"00ff\"\ndependencies = [\n \"b\",\n]\n\n[[package]]\nname = \"b\"\nversion = \"0.1.0\"\n";
        let a = Package {
            name: "a".into(),
            version: "1.2.3".into(),
            source: "registry+x".into(),
            checksum: "00ff".into(),
        };
        let b = Package {
            name: "b".into(),
            version: "0.1.0".into(),
            ..Package::default()
        };
        assert_eq!(packages(lock), [a, b]);
        assert!(packages("version = 4\n").is_empty());
    }
}
