defmodule Brain.Link.Dispatch do
  @moduledoc """
  Deals the events of a batch out to those who own them, in order. Pure.

  A beat goes to `:liveness`, and to every shard as the mark at which it puts down its share of the
  root, with the versions of its own tenants.
  """

  alias Brain.Link.Terms

  @type part :: :liveness | non_neg_integer
  @type heard :: %{{binary, non_neg_integer} => integer}

  # Far more incarnations than live at once; beyond it, when each was heard is forgotten.
  @most_heard 20_000
  # Longer than any beat looks back.
  @long_ago_ms 60_000

  @type dealt :: %{
          parts: %{part => [tuple]},
          heard: heard,
          counted: [{term, term}],
          malformed: non_neg_integer
        }

  @spec deal(term, pos_integer, heard, integer) :: dealt
  def deal(events, shards, heard, now) do
    d = each(events, %{parts: %{}, heard: heard, counted: [], malformed: 0}, shards, now)
    %{d | parts: Map.new(d.parts, fn {part, events} -> {part, Enum.reverse(events)} end)}
  end

  defp each([event | rest], d, shards, now) do
    d =
      if Terms.event?(event),
        do: one(event, d, shards, now),
        else: %{d | malformed: d.malformed + 1}

    each(rest, d, shards, now)
  end

  defp each([], d, _, _), do: d
  defp each(_, d, _, _), do: %{d | malformed: d.malformed + 1}

  defp one({:changes, account, shield, epoch, _, _, _, _} = event, d, shards, now) do
    d = if map_size(d.heard) > @most_heard, do: %{d | heard: %{}}, else: d
    d = %{d | heard: Map.put(d.heard, {shield, epoch}, now)}
    to(d, shard(account, shards), event)
  end

  defp one({:active, account, _, _, _, _} = event, d, shards, _),
    do: to(d, shard(account, shards), event)

  defp one({:page, account, _, _, _, _, _, _, _} = event, d, shards, _) do
    to(d, shard(account, shards), event)
  end

  defp one({:query, account, _, _, _, _, _, _} = event, d, shards, _) do
    to(d, shard(account, shards), event)
  end

  defp one({:beat, shield, epoch, uptime, goodbye?, root, _, _, recent}, d, shards, now) do
    quiet = now - Map.get(d.heard, {shield, epoch}, now - @long_ago_ms)
    recent = Enum.group_by(recent, &shard(elem(&1, 0), shards))
    d = to(d, :liveness, {:beat, shield, epoch, uptime, goodbye?, root, quiet})

    Enum.reduce(0..(shards - 1), d, fn index, d ->
      to(d, index, {:beat, shield, epoch, uptime, Map.get(recent, index, [])})
    end)
  end

  defp one({:dirty, list}, d, shards, _) do
    list
    |> Enum.group_by(fn {account, _} -> shard(account, shards) end)
    |> Enum.reduce(d, fn {index, list}, d -> to(d, index, {:dirty, list}) end)
  end

  defp one({:counted, kind, n}, d, _, _), do: %{d | counted: [{kind, n} | d.counted]}
  defp one(event, d, _, _), do: to(d, :liveness, event)

  defp to(d, part, event) do
    %{d | parts: Map.update(d.parts, part, [event], &[event | &1])}
  end

  @doc "The shard of a tenant."
  @spec shard(binary, pos_integer) :: non_neg_integer
  def shard(account, shards), do: :erlang.phash2(account, shards)
end
