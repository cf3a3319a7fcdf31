defmodule Brain.Roots do
  @moduledoc """
  The shards' shares of each incarnation's root digest, as of the beat they were compared with.

  A shard puts its share down where the beat stands in its stream, so that shares of one beat are
  of one moment, whatever the shards' mailboxes hold.
  """

  import Bitwise

  # Changes of a beat's moment have come by now, unless they were lost.
  @quiet_ms 500
  @most_beats_in_a_row 5

  @spec init() :: :ok
  def init do
    if :ets.whereis(__MODULE__) == :undefined do
      :ets.new(__MODULE__, [:named_table, :public, :set])
    end

    :ok
  end

  @spec put(binary, non_neg_integer, non_neg_integer, integer, non_neg_integer) :: true
  def put(shield, epoch, index, uptime, share) do
    :ets.insert(__MODULE__, {{shield, epoch, index}, uptime, share})
  end

  @doc "Our root of an incarnation at the beat of this uptime."
  @spec own(binary, non_neg_integer, integer, pos_integer) :: {:ok, non_neg_integer} | :not_yet
  def own(shield, epoch, uptime, shards) do
    Enum.reduce_while(0..(shards - 1), {:ok, 0}, fn index, {:ok, root} ->
      case :ets.lookup(__MODULE__, {shield, epoch, index}) do
        [{_, ^uptime, share}] -> {:cont, {:ok, bxor(root, share)}}
        _ -> {:halt, :not_yet}
      end
    end)
  end

  @spec forget(binary, non_neg_integer) :: true
  def forget(shield, epoch), do: :ets.match_delete(__MODULE__, {{shield, epoch, :_}, :_, :_})

  @doc """
  What a beat's root calls for, with how many beats in a row differed.

  While changes come, beat and changes overtake each other, so a difference counts only when the
  Shield was quiet, or time and again. A Brain that is not warm asks at once.
  """
  @spec judge(boolean, integer, non_neg_integer, boolean) ::
          {:fine | :wait | :ask, non_neg_integer}
  def judge(true, _, _, _), do: {:fine, 0}
  def judge(false, _, _, false), do: {:ask, 0}
  def judge(false, quiet_ms, _, _) when quiet_ms >= @quiet_ms, do: {:ask, 0}
  def judge(false, _, streak, _) when streak + 1 >= @most_beats_in_a_row, do: {:ask, 0}
  def judge(false, _, streak, _), do: {:wait, streak + 1}
end
