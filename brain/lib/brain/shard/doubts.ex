defmodule Brain.Shard.Doubts do
  @moduledoc """
  Which versions told by a Shield are in doubt, and for how long. Pure.

  Beats, digests and changes overtake each other, for they come over two connections. So a version
  that is behind has half a second to be reached, and one that is above what was told, or of a
  tenant that is not listed, must be so twice with nothing come between.
  """

  alias Brain.Roster
  alias Brain.Repairs.Plan

  @stand_ms 500
  # Beyond it doubts are forgotten; the next beat raises those that still stand.
  @most 100_000

  @type ours :: {Roster.seq(), non_neg_integer, Roster.digest()}
  @type t :: %{
          lags: %{Plan.key() => {Roster.seq(), integer}},
          ahead: %{Plan.key() => {Roster.seq(), Roster.seq(), integer}},
          unlisted: %{Plan.key() => {Roster.seq(), integer}}
        }

  @spec new() :: t
  def new, do: %{lags: %{}, ahead: %{}, unlisted: %{}}

  @spec size(t) :: non_neg_integer
  def size(doubts), do: map_size(doubts.lags)

  @doc "Compares a version with one told in a beat, or in digests of a warm or a cold Brain."
  @spec compare(t, Plan.key(), ours, ours, :beat | :digests | :cold, integer) ::
          {t, :equal | :digest | :lag | :wait | :ahead | :newer | :cold}
  def compare(doubts, key, {at, count, digest}, {seq, told_count, told_digest}, how, now) do
    cond do
      at == seq and count == told_count and digest == told_digest ->
        {clear(doubts, key), :equal}

      at == seq ->
        {clear(doubts, key), :digest}

      at < seq and how == :cold ->
        {clear(doubts, key), :cold}

      at < seq ->
        lag(doubts, key, seq, now)

      how == :beat ->
        {doubts, :newer}

      true ->
        ahead(doubts, key, at, seq, now)
    end
  end

  defp clear(doubts, key) do
    %{
      doubts
      | lags: Map.delete(doubts.lags, key),
        ahead: Map.delete(doubts.ahead, key),
        unlisted: Map.delete(doubts.unlisted, key)
    }
  end

  # The first version told is what has to be reached: a later one would never stand long enough.
  defp lag(doubts, key, seq, now) do
    lags = Map.put_new(bound(doubts.lags), key, {seq, now})
    {%{doubts | lags: lags, unlisted: Map.delete(doubts.unlisted, key)}, :wait}
  end

  defp ahead(doubts, key, at, seq, now) do
    case doubts.ahead do
      %{^key => {^at, ^seq, since}} when now - since >= @stand_ms ->
        {clear(doubts, key), :ahead}

      %{^key => {^at, ^seq, _}} ->
        {doubts, :newer}

      _ ->
        {%{doubts | ahead: Map.put(bound(doubts.ahead), key, {at, seq, now})}, :newer}
    end
  end

  @doc "The versions that had their time to be reached."
  @spec due(t, integer) :: {t, [{Plan.key(), Roster.seq()}]}
  def due(%{lags: none} = doubts, _) when none == %{}, do: {doubts, []}

  def due(doubts, now) do
    {due, lags} = Enum.split_with(doubts.lags, fn {_, {_, since}} -> now - since >= @stand_ms end)
    {%{doubts | lags: Map.new(lags)}, for({key, {seq, _}} <- due, do: {key, seq})}
  end

  @doc "Of tenants with entries that digests do not list, those that were so before, untouched."
  @spec unlisted(t, binary, Roster.epoch(), [{Roster.account(), Roster.seq()}], integer) ::
          {t, [Roster.account()]}
  def unlisted(doubts, shield, epoch, held, now) do
    {drop, keep} =
      Enum.split_with(held, fn {account, seq} ->
        case doubts.unlisted do
          %{{^account, ^shield, ^epoch} => {^seq, since}} -> now - since >= @stand_ms
          _ -> false
        end
      end)

    # Only what is unlisted now stays in doubt.
    others = Map.reject(doubts.unlisted, fn {{_, s, e}, _} -> {s, e} == {shield, epoch} end)

    unlisted =
      for {account, seq} <- keep, into: bound(others) do
        key = {account, shield, epoch}

        case doubts.unlisted do
          %{^key => {^seq, since}} -> {key, {seq, since}}
          _ -> {key, {seq, now}}
        end
      end

    {%{doubts | unlisted: unlisted}, Enum.map(drop, &elem(&1, 0))}
  end

  @doc "Nothing of this incarnation is in doubt any more."
  @spec forget(t, binary, Roster.epoch()) :: t
  def forget(doubts, shield, epoch) do
    Map.new(doubts, fn {kind, map} ->
      {kind, Map.reject(map, fn {{_, s, e}, _} -> {s, e} == {shield, epoch} end)}
    end)
  end

  defp bound(map) when map_size(map) > @most, do: %{}
  defp bound(map), do: map
end
