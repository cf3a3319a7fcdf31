defmodule Brain.Metrics do
  @moduledoc """
  Counters and gauges of this Brain, and their Prometheus text.

  Counters are one `:counters` array for the life of the VM, so that a crash of what counts loses
  nothing. Gauges are rows of a public table, one for each process that measures.
  """

  @counters [
    {:changes, "Changes applied"},
    {:duplicates, "Batches of changes that were known already"},
    {:gaps, "Batches of changes that did not follow on the version held"},
    {:stale_epoch, "Beats that were old, or of an incarnation that has ended"},
    {:forged, "Changes, pages and marks of an incarnation that no beat has put in force"},
    {{:syncs, :gap}, "Snapshots wanted, by reason"},
    {{:syncs, :overflow}, "Snapshots wanted, by reason"},
    {{:syncs, :lag}, "Snapshots wanted, by reason"},
    {{:syncs, :digest}, "Snapshots wanted, by reason"},
    {{:syncs, :ahead}, "Snapshots wanted, by reason"},
    {{:syncs, :dirty}, "Snapshots wanted, by reason"},
    {{:syncs, :malformed}, "Snapshots wanted, by reason"},
    {{:syncs, :cold}, "Snapshots wanted, by reason"},
    {:syncs_done, "Snapshots that were fetched whole"},
    {:digest_mismatches, "Tenants whose version was right and whose digest was not"},
    {:shield_conflicts, "Beats of a Shield id of which a newer incarnation is in force"},
    {:tenants_dropped, "Tenants that a Shield no longer listed, with their entries"},
    {:malformed, "Messages and terms that could not be read"},
    {:oversized, "Messages over a limit"},
    {:slow_consumer, "Messages that the client library dropped"},
    {:clock_skew, "Beats of a Shield whose clock is far off"},
    {:dropped, "What a full queue refused"},
    {:events, "Events sent to watchers"},
    {:answers, "Queries answered"},
    {:parked, "Queries that waited for a change"},
    {:link_restarts, "Starts of the link after the first"}
  ]
  @index @counters |> Enum.map(&elem(&1, 0)) |> Enum.with_index(1) |> Map.new()
  # Of the kinds that the link may name.
  @from_link [:slow_consumer, :malformed, :oversized, :clock_skew, :dropped]
  @gauges %{
    members: "Sessions in rooms",
    rooms: "Rooms somebody is seen in",
    tenants: "Tenants",
    shields: "Shields in force",
    share: "Tenants this Brain emits for",
    warm: "1 if this Brain answers queries",
    mailbox_max: "Longest mailbox of a shard",
    memory_bytes: "Memory of the BEAM",
    waiting: "Parts whose version is behind what a beat told"
  }

  @type counter :: atom | {:syncs, Brain.Repairs.reason()}

  @doc "Makes counters and gauges, once for the life of the VM; the caller owns the gauges."
  @spec init() :: :ok
  def init do
    if :persistent_term.get(__MODULE__, nil) == nil do
      :persistent_term.put(__MODULE__, :counters.new(length(@counters), [:write_concurrency]))
    end

    if :ets.whereis(__MODULE__) == :undefined do
      :ets.new(__MODULE__, [:named_table, :public, :set, write_concurrency: true])
    end

    :ok
  end

  @spec add(counter, integer) :: :ok
  def add(name, n),
    do: :counters.add(:persistent_term.get(__MODULE__), Map.fetch!(@index, name), n)

  @doc "Adds what the link has counted; a kind it does not know counts as malformed."
  @spec add_from_link(term, term) :: :ok
  def add_from_link(kind, n) when kind in @from_link and is_integer(n) and n >= 0,
    do: add(kind, n)

  def add_from_link(_, _), do: add(:malformed, 1)

  @spec get(counter) :: integer
  def get(name), do: :counters.get(:persistent_term.get(__MODULE__), Map.fetch!(@index, name))

  @doc "What process `who` measures of `name` now."
  @spec gauge(atom, term, integer) :: true
  def gauge(name, who, value), do: :ets.insert(__MODULE__, {{name, who}, value})

  @doc "A gauge over all processes that measure it."
  @spec total(atom) :: integer
  def total(name) do
    values = :ets.select(__MODULE__, [{{{name, :_}, :"$1"}, [], [:"$1"]}])
    if name == :mailbox_max, do: Enum.max(values, fn -> 0 end), else: Enum.sum(values)
  end

  @doc "All as Prometheus text."
  @spec text() :: iodata
  def text do
    gauge(:memory_bytes, :vm, :erlang.memory(:total))

    counters =
      @counters
      |> Enum.group_by(&family/1)
      |> Enum.sort()
      |> Enum.map(fn {{name, help}, members} ->
        full = "brain_#{name}_total"
        lines = for {key, _} <- members, do: [full, label(key), " ", "#{get(key)}", "\n"]
        ["# HELP ", full, " ", help, "\n# TYPE ", full, " counter\n", lines]
      end)

    gauges =
      for {name, help} <- Enum.sort(@gauges) do
        full = "brain_#{name}"
        ["# HELP ", full, " ", help, "\n# TYPE ", full, " gauge\n", full, " #{total(name)}\n"]
      end

    [counters, gauges]
  end

  defp family({{name, _}, help}), do: {name, help}
  defp family({name, help}), do: {name, help}
  defp label({_, reason}), do: "{reason=\"#{reason}\"}"
  defp label(_), do: ""
end
