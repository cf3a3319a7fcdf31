defmodule Brain.Core do
  @moduledoc """
  Everything behind the link. `rest_for_one`, in this order:

  - `Liveness` knows which incarnations are in force. If it crashes, the shards would show Shields
    of which nobody sees the end: so all after it begin anew, empty, and fetch.
  - The shards, `one_for_one` among themselves: one that crashes loses its own tenants only.
    `Liveness` sees it, this Brain is not warm until that part is fetched again, and another one
    answers and emits meanwhile.
  - `Repairs` forgets what is wanted when it crashes; what is still wrong then, the next beats find.
  - `Health` last: nothing depends on it.

  A link that crashes is outside of this: the rosters stay, and are compared when it is back.
  """
  use Supervisor

  alias Brain.{Health, Link, Liveness, Metrics, Repairs, Roots, Shard}

  @spec start_link(keyword) :: Supervisor.on_start()
  def start_link(opts), do: Supervisor.start_link(__MODULE__, opts, name: __MODULE__)

  @impl true
  def init(opts) do
    # Owned by this supervisor: they outlive each of the processes that write them.
    Metrics.init()
    Roots.init()
    config = Keyword.get_lazy(opts, :config, &Link.config/0)

    children = [
      {Liveness, config: config},
      %{
        id: :shards,
        type: :supervisor,
        start:
          {Supervisor, :start_link,
           [
             for(index <- 0..(config.shards - 1), do: {Shard, {config, index}}),
             # A term that kills its shard each time must not take the others' state along soon.
             [strategy: :one_for_one, max_restarts: 20, max_seconds: 60]
           ]}
      },
      {Repairs, config: config},
      {Health, listen: config.listen},
      # Only now is there someone to deal events out to.
      %{id: :go, start: {__MODULE__, :go, []}, restart: :temporary}
    ]

    Supervisor.init(children, strategy: :rest_for_one, max_restarts: 5, max_seconds: 60)
  end

  @doc false
  @spec go() :: :ignore
  def go do
    Link.go()
    :ignore
  end
end
