//! The `interdict` command line.

mod simulate;

fn main() {
    let count = simulate::generator::Generator::new(simulate::generator::Config::default()).count();
    eprintln!("{count}");
}
