defmodule Brain.MixProject do
  use Mix.Project

  def project do
    [
      app: :brain,
      version: "0.1.0",
      elixir: "~> 1.14",
      elixirc_paths: if(Mix.env() == :test, do: ["lib", "test/support"], else: ["lib"]),
      start_permanent: Mix.env() == :prod,
      # PropEr comes from the system (apt: erlang-proper) and only tests name it.
      xref: [exclude: [:proper, :proper_types]],
      deps: [],
      # The application opens a port and needs a manifest: tests start what they test.
      aliases: [test: ["test --no-start"]],
      releases: [
        brain: [
          include_executables_for: [:unix],
          applications: [runtime_tools: :none],
          # Distribution is off (rel/env.sh.eex), so it opens nothing; without it each build would
          # make a secret, and put it into the image.
          cookie: "distribution-is-off",
          steps: [:assemble]
        ]
      ]
    ]
  end

  def application do
    [extra_applications: [:logger, :crypto], mod: {Brain.Application, []}]
  end
end
