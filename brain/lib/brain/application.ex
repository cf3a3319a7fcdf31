defmodule Brain.Application do
  @moduledoc """
  Starts the link, which reads the manifest, and then everything that the manifest configures.

  `one_for_one`: a link that crashes, stops or hangs is started again by itself. Liveness sees it
  go, freezes its deadlines and is not warm; the shards keep their rosters, and once the new link is
  up every Shield's digests are compared. So a crash of the link costs no presence and no snapshot
  of what did not change. Twenty restarts in a minute end Brain: then it is not chance, and whoever
  started Brain should know.
  """
  use Application

  alias Brain.{Core, Link, Liveness, Log, Metrics}
  alias Brain.Link.Credit

  @flush_ms 2_000

  @impl true
  def start(_type, _args) do
    Logger.add_translator({Log, :translate})
    Metrics.init()
    Credit.init()

    case System.get_env("ARQON_CONFIG") do
      path when path in [nil, ""] -> refuse("ARQON_CONFIG must name the manifest (config.toml)")
      manifest -> run(manifest)
    end
  end

  @spec refuse(String.t()) :: no_return
  defp refuse(why) do
    IO.puts(:stderr, "brain: " <> why)
    System.halt(64)
  end

  defp run(manifest) do
    program = Application.app_dir(:brain, "priv/arqon-brain-link")
    if not File.exists?(program), do: refuse("#{program} is missing; scripts/brain builds it")

    children = [{Link, program: program, manifest: manifest}, {Core, []}]

    Supervisor.start_link(children,
      strategy: :one_for_one,
      max_restarts: 20,
      max_seconds: 60,
      name: Brain.Supervisor
    )
  end

  # On SIGTERM: no more queries, goodbye to the other Brains, and what is written gets out.
  @impl true
  def prep_stop(state) do
    if Process.whereis(Liveness) do
      Liveness.goodbye()
      flush(System.monotonic_time(:millisecond) + @flush_ms)
    end

    state
  end

  # All credit back means that all is on its way.
  defp flush(deadline) do
    if Credit.left() < Credit.initial() and System.monotonic_time(:millisecond) < deadline do
      Process.sleep(10)
      flush(deadline)
    end
  end
end
