{:ok, _} = Application.ensure_all_started(:logger)
ExUnit.start(capture_log: true)

# What has moved of the metrics, for the test of the catalogue (shield/harness/tests/catalogue.rs).
ExUnit.after_suite(fn _ ->
  target = System.get_env("CARGO_TARGET_DIR") || Path.expand("../../target", __DIR__)
  folder = Path.join(target, "debug/arqon-moved")
  Brain.Metrics.init()

  moved =
    for {name, value} <- Brain.Metrics.numbers(), value > 0 do
      # `syncs_done` is a number of its own, the others are `syncs` by reason.
      name = if name == "syncs_done", do: name, else: String.replace(name, ~r/^syncs_.*/, "syncs")
      "arqon_brain_" <> name
    end

  File.mkdir_p!(folder)
  File.write!(Path.join(folder, "exunit"), Enum.join(moved, "\n"))
end)
